"""SimCLR: the loss by hand, against its definition and over ranks; representation and probes; and through its recipe."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.SelfSupervised.SimCLR import loss as loss_module
from dl.modules.SelfSupervised.SimCLR import train
from dl.modules.SelfSupervised.SimCLR.loss import nt_xent
from dl.modules.SelfSupervised.SimCLR.model import build
from dl.modules.SelfSupervised.SimCLR.task import Contrastive
from dl.modules.SelfSupervised.testing import byte_splits, view_batch
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader
from dl.mytorch.features import encode
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.torchvision_compat import import_torchvision

FIRST = torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=torch.float64)
SECOND = torch.tensor([[1.0, 1], [0, 2], [2, 0]], dtype=torch.float64)


# ---- the loss ------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_of_three_pairs_are_the_worked_numbers() -> None:
    first = FIRST.clone().requires_grad_()
    found = nt_xent(first, SECOND, 0.5)
    found.backward()
    assert found.item() == pytest.approx(1.360196290296816, abs=1e-12)
    assert nt_xent(FIRST, SECOND, 0.1).item() == pytest.approx(2.084979743248600, abs=1e-12)
    expected = [[0, -0.204313339922], [0.267091180869, 0], [-0.235702260396, 0.235702260396]]
    torch.testing.assert_close(first.grad, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-11)


def by_definition(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Algorithm 1, term by term."""
    z = [*first, *second]
    count = len(first)

    def term(i: int, j: int) -> Tensor:
        s = [F.cosine_similarity(z[i], z[k], dim=0) / temperature for k in range(2 * count)]
        return -s[j] + torch.stack([s[k].exp() for k in range(2 * count) if k != i]).sum().log()

    return sum(term(k, k + count) + term(k + count, k) for k in range(count)) / (2 * count)


def embeddings(count: int = 5) -> tuple[Tensor, Tensor]:
    both = torch.randn(2, count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return both[0], both[1]


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_loss_and_gradient_are_those_of_algorithm_1(temperature: float) -> None:
    given = [each.clone().requires_grad_() for each in embeddings()]
    twin = [each.clone().requires_grad_() for each in embeddings()]
    found, expected = nt_xent(*given, temperature), by_definition(*twin, temperature)
    found.backward(), expected.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    for ours, theirs in zip(given, twin):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_a_collapsed_embedding_has_the_loss_of_guessing() -> None:
    same = torch.ones(8, 3)
    assert nt_xent(same, same, 0.2).item() == pytest.approx(math.log(15), abs=1e-6)
    assert nt_xent(same[:1], same[:1], 0.2).item() == 0  # one image has no other to be confused with


def test_loss_knows_directions_only_and_is_computed_in_float32_at_least() -> None:
    first, second = embeddings()
    assert nt_xent(3 * first, 0.1 * second, 0.2).item() == pytest.approx(nt_xent(first, second, 0.2).item(), abs=1e-12)
    assert nt_xent(first.bfloat16(), second.bfloat16(), 0.2).dtype == torch.float32


def test_shares_of_a_batch_have_the_loss_and_the_gradient_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks one after the other, in one graph: of 5 images the first has 2, the second 3, a third none."""
    whole = [each.clone().requires_grad_() for each in embeddings()]
    nt_xent(*whole, 0.2).backward()
    first, second = (each.clone().requires_grad_() for each in embeddings())
    pairs = F.normalize(torch.stack([first, second], 1), dim=-1)
    total = torch.zeros((), dtype=torch.float64)
    for start, stop in ((0, 2), (2, 5), (5, 5)):
        monkeypatch.setattr(loss_module, "gather_with_gradient", lambda rows, start=start: (pairs, start))
        own = nt_xent(first[start:stop], second[start:stop], 0.2)
        total = total + (own * (stop - start) if stop > start else 0)
    (total / 5).backward()
    torch.testing.assert_close(first.grad, whole[0].grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(second.grad, whole[1].grad, rtol=0, atol=1e-12)


def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3, dtype=torch.float64)


def run_rank(rank: int, folder: str) -> None:
    """Loss of a third and of two thirds of the images, and the gradient of their mean."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    network, (first, second) = head(), (each[slice(0, 2) if rank == 0 else slice(2, 5)] for each in embeddings())
    loss = nt_xent(network(first), network(second), 0.2) * len(first) / 5
    loss.backward()
    for value in (total := loss.detach().clone(), *(parameter.grad for parameter in network.parameters())):
        dist.all_reduce(value)
    torch.save([total, *(parameter.grad for parameter in network.parameters())], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_loss_and_the_gradient_of_one_process(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    network, (first, second) = head(), embeddings()
    loss = nt_xent(network(first), network(second), 0.2)
    loss.backward()
    expected = [loss.detach(), *(parameter.grad for parameter in network.parameters())]
    for rank in range(2):
        for found, value in zip(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-12)


@pytest.mark.parity
def test_loss_is_lightly_s() -> None:
    import_torchvision()  # lightly would import a build that does not fit
    library = pytest.importorskip("lightly.loss", reason='lightly is not installed: pip install -e ".[parity]"')
    given = [each.clone().requires_grad_() for each in embeddings(9)]
    twin = [each.clone().requires_grad_() for each in embeddings(9)]
    found, expected = nt_xent(*given, 0.3), library.NTXentLoss(temperature=0.3)(*twin)
    found.backward(), expected.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    for ours, theirs in zip(given, twin):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


# ---- the network ---------------------------------------------------------------------------------------------------


def test_an_embedding_is_the_head_s_of_the_pooled_features() -> None:
    model = build("tiny").double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x = model.encoder.stem(images)
    for block in model.encoder.blocks:
        x = block(x)
    features = x.mean((2, 3))
    torch.testing.assert_close(model.represent(images), features)
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in (model.projector.fc1, model.projector.fc2))
    torch.testing.assert_close(model(images), (features @ w1.T + b1).relu() @ w2.T + b2)


def test_the_paper_s_encoder_is_a_resnet_50_without_its_classifier() -> None:
    with without_values():
        model = build("resnet50")
        assert count_parameters(model.encoder) == 25_557_032 - 2_049_000
        assert count_parameters(model.projector) == 2048 * 2049 + 2049 * 128  # "2-layer MLP", 128 dimensions
        small = build("resnet50", small=True).encoder.stem
    assert small.conv.kernel_size == (3, 3) and small.conv.stride == (1, 1) and not hasattr(small, "pool")


def test_measuring_leaves_the_encoder_as_it_was() -> None:
    """Norms in training mode would go on following the images of the probe."""
    model, batch = build("tiny").eval(), view_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = Loader({"images": batch["images"], "labels": batch["labels"]}, 3)
    task = Contrastive(0.2, loader, model.dim, k=2)
    with torch.no_grad():
        task.begin_evaluation(model)
        output = task.eval_step(model, batch)
        features, _ = encode(model.represent, loader, torch.device("cpu"))
    assert features.shape == (8, 16) and output.outputs["wrong"].shape == (8,)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---- the recipe ----------------------------------------------------------------------------------------------------


def config(**flags: Any) -> train.Config:
    return train.Config(**{"model": "tiny", "epochs": 1, "eval_every": 2, "batch_size": 4, "lr": 0.05, **flags})


def test_what_cannot_be_asked_for_is_refused() -> None:
    for flags, says in (({"temperature": 0.0}, "--temperature"), ({"accumulate": 2}, "--accumulate")):
        with pytest.raises(UserError, match=says):
            config(**flags)


def test_views_of_a_step_are_compared_with_each_other_and_not_with_themselves() -> None:
    model, batch = build("tiny").eval(), view_batch(4)
    task = Contrastive(0.5, Loader({"images": batch["images"], "labels": batch["labels"]}, 4), model.dim)
    output = task.step(model, batch)
    expected = nt_xent(model(batch["first"]), model(batch["second"]), 0.5)
    torch.testing.assert_close(output.loss, expected) and output.count == 4
    assert output.outputs["embeddings"].shape == (8, 8)


def contrastive() -> Contrastive:
    batch = view_batch()
    return Contrastive(0.5, Loader({"images": batch["images"], "labels": batch["labels"]}, 8), build("tiny").dim)


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    view_batch,
    splits=lambda _: byte_splits(),
    task=contrastive,
    overfit=[testing.Overfit(lr=1e-2, below=1.3)],
)
