"""The loss of three heads, by hand-worked numbers and against a network that has one."""

import math

import pytest
import torch
from torch import Tensor, nn

from dl.modules.CNN.GoogLeNet.model import GoogLeNetOutput, build
from dl.modules.CNN.GoogLeNet.task import AuxiliaryClassification
from dl.mytorch.data import synthetic
from dl.mytorch.tasks import Classification


class Fixed(nn.Module):
    """Two classes; in training three heads whose losses for class 0 are log 2, log 4 and log 8; else the first."""

    def forward(self, images: Tensor) -> Tensor | GoogLeNetOutput:
        rows = [torch.tensor([[0.0, second]]).repeat(len(images), 1) for second in (0.0, math.log(3), math.log(7))]
        return GoogLeNetOutput(*rows) if self.training else rows[0]


def test_loss_is_that_of_the_last_head_and_0_3_of_each_other() -> None:
    batch = {"images": torch.zeros(3, 1, 1, 1), "labels": torch.tensor([0, 0, 0])}
    task, model = AuxiliaryClassification(), Fixed()
    loss, count, outputs = task.step(model, batch)
    assert loss.item() == pytest.approx(math.log(2) + 0.3 * (math.log(4) + math.log(8)))  # 1.73287
    assert count == 3
    assert torch.equal(outputs["logits"], torch.zeros(3, 2))  # those of the last head, which the metrics read
    assert task.step(model.eval(), batch).loss.item() == pytest.approx(math.log(2))
    assert task.eval_step(model, batch).loss.item() == pytest.approx(math.log(2))


def test_label_smoothing_acts_on_all_three_heads() -> None:
    batch = {"images": torch.zeros(1, 1, 1, 1), "labels": torch.tensor([0])}
    # A tenth of the label goes to both classes in equal parts: 0.95 of the loss for class 0, 0.05 of that for class 1.
    first = 0.95 * math.log(4) + 0.05 * math.log(4 / 3)
    second = 0.95 * math.log(8) + 0.05 * math.log(8 / 7)
    task = AuxiliaryClassification(label_smoothing=0.1)
    assert task.step(Fixed(), batch).loss.item() == pytest.approx(math.log(2) + 0.3 * (first + second))
    assert task.eval_step(Fixed().eval(), batch).loss.item() == pytest.approx(math.log(2))


def test_blended_labels_reach_all_three_heads() -> None:
    batch = {"images": torch.zeros(1, 1, 1, 1), "labels": torch.tensor([0]), "targets": torch.tensor([[0.75, 0.25]])}
    first, second = 0.75 * math.log(4) + 0.25 * math.log(4 / 3), 0.75 * math.log(8) + 0.25 * math.log(8 / 7)
    loss = AuxiliaryClassification().step(Fixed(), batch).loss
    assert loss.item() == pytest.approx(math.log(2) + 0.3 * (first + second))


def test_with_weight_0_the_network_learns_as_one_without_heads() -> None:
    task = AuxiliaryClassification()
    task.auxiliary_weight = 0.0
    model = build("tiny", in_channels=1, dropout=0.0).double()
    plain = build("tiny", in_channels=1, dropout=0.0, aux=False).double()
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items() if not name.startswith("aux.")})
    batch = synthetic.images(8, size=8)
    batch["images"] = batch["images"].double()
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9) for network in (model, plain)]
    for _ in range(3):
        losses = [task.step(model, batch).loss, Classification().step(plain, batch).loss]
        assert losses[0].item() == losses[1].item()
        for loss, optimizer in zip(losses, optimizers):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    ours = model.state_dict()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-12, msg=name)
