"""What graph networks learn: a class for each node, or for each graph."""

from typing import Any, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.data import Batch
from dl.mytorch.metrics import Metric, TopKError
from dl.mytorch.tasks import StepOutput, Task


class NodeClassification(Task):
    """Classes for the nodes of one graph, which the network reads whole in every step: cross-entropy and top-1 error.

    Batches: "nodes" (B,), whose rows of the output count, and "labels" (B,). The other nodes are seen without their labels.

    Args:
        inputs: what the network is called with: the features of all nodes and the graph.
        monitor: the validation quantity that chooses the checkpoint, "loss" or "top1_error".
    """

    unit = "node"

    def __init__(self, inputs: Sequence[Any], monitor: str = "loss") -> None:
        self.inputs, self.monitor = tuple(inputs), monitor

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        nodes, labels = batch["nodes"], batch["labels"]
        self.inputs = tuple(each.to(nodes.device) for each in self.inputs)
        return scored(model(*self.inputs).index_select(0, nodes), labels)  # (N, K) -> (B, K)

    def metrics(self) -> dict[str, Metric]:
        return {"top1_error": TopKError(1)}


class GraphClassification(Task):
    """A class for each graph: cross-entropy and top-1 error. The checkpoint is that of the least validation loss.

    Batches: "features", "edges" and "sizes" of padded graphs, and "labels" (B,).
    """

    unit = "graph"

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return scored(model(batch["features"], batch["edges"], batch["sizes"]), batch["labels"])

    def metrics(self) -> dict[str, Metric]:
        return {"top1_error": TopKError(1)}


def scored(logits: Tensor, labels: Tensor) -> StepOutput:
    """Return the mean cross-entropy of logits (B, K), which of no example is 0: a rank may have none."""
    loss = F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
    return StepOutput(loss, len(labels), {"logits": logits.detach(), "labels": labels})
