"""DINO: loss and centre by hand, against lightly and over ranks; who teaches whom; the network; and through its recipe."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from dl.modules.SelfSupervised.DINO import train
from dl.modules.SelfSupervised.DINO.loss import distillation_loss, momentum, teacher_temperature
from dl.modules.SelfSupervised.DINO.model import DINO, build
from dl.modules.SelfSupervised.DINO.task import Distillation, DistillationStep
from dl.modules.SelfSupervised.testing import byte_splits, view_batch
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader
from dl.mytorch.dtensor import full_state_dict
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.optim import sgd
from dl.mytorch.torchvision_compat import import_torchvision

TEACHER = torch.tensor([[[0.2, 0.1, 0]], [[0, 0.1, 0.1]]], dtype=torch.float64)  # two views of one image
STUDENT = torch.tensor([[[0.3, 0, 0]], [[0, 0.3, 0]]], dtype=torch.float64)


def outputs(views: int, seed: int = 0) -> Tensor:
    return torch.randn(views, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def task_of(model: nn.Module, total_steps: int = 10, temperature: float = 0.0625) -> Distillation:
    batch = view_batch()
    bank = Loader({"images": batch["images"], "labels": batch["labels"]}, 8)
    task = Distillation(temperature, total_steps, bank, model.num_outputs)
    task.teacher = model
    return task


# ---- the loss ------------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """A network that makes of any images the outputs `values` (2B, K)."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values, self.num_outputs = nn.Parameter(values), values.shape[1]
        self.register_buffer("centre", torch.zeros(values.shape[1], dtype=values.dtype))

    def forward(self, images: Tensor) -> Tensor:
        return self.values


def test_loss_and_centre_are_the_worked_numbers() -> None:
    """The loss is by the centre of before the batch: with that of after it, it would be 2.719354475490562."""
    assert distillation_loss(STUDENT, TEACHER, torch.zeros(3), 0.1, 0.0625).item() == pytest.approx(
        2.713677685902190, abs=1e-12
    )
    task = task_of(Given(TEACHER.flatten(0, 1)))
    found = task.step(Given(STUDENT.flatten(0, 1)), view_batch(1))
    assert found.loss.item() == pytest.approx(2.713677685902190, abs=1e-12) and found.count == 1
    assert not task.teacher.centre.any()
    task.move_centre()
    torch.testing.assert_close(task.teacher.centre, torch.tensor([0.01, 0.01, 0.005], dtype=torch.float64))
    after = distillation_loss(STUDENT, TEACHER, task.teacher.centre, 0.1, 0.0625)
    assert after.item() == pytest.approx(2.719354475490562, abs=1e-12)


@pytest.mark.parametrize("views", [2, 3])
def test_the_loss_is_the_mean_cross_entropy_of_pairs_of_unlike_views(views: int) -> None:
    student, teacher, centre = outputs(views), outputs(2, 1), outputs(1, 2)[0, 0]
    terms = []
    for t in range(2):
        for v in range(views):
            if t != v:
                p = ((teacher[t] - centre) / 0.05).exp()
                log_q = (student[v] / 0.1) - (student[v] / 0.1).exp().sum(-1, keepdim=True).log()
                terms += [-(p / p.sum(-1, keepdim=True) * log_q).sum(-1)]
    found = distillation_loss(student, teacher, centre, 0.1, 0.05)
    torch.testing.assert_close(found, torch.stack(terms).mean(), rtol=0, atol=1e-10)


def test_no_gradient_goes_to_the_teacher_and_the_loss_is_in_float32_at_least() -> None:
    student, teacher = outputs(2).requires_grad_(), outputs(2, 1).requires_grad_()
    distillation_loss(student, teacher, torch.zeros(6), 0.1, 0.04).backward()
    assert student.grad is not None and student.grad.any() and teacher.grad is None
    assert distillation_loss(student.bfloat16(), teacher.bfloat16(), torch.zeros(6), 0.1, 0.04).dtype == torch.float32


def test_a_teacher_that_says_the_same_of_all_has_a_loss_of_nothing_learned() -> None:
    """The centre is then its output: what is left is as even as can be, and so is the student's best answer."""
    same = torch.full((2, 3, 8), 0.7)
    assert distillation_loss(torch.zeros(2, 3, 8), same, same[0, 0], 0.1, 0.04).item() == pytest.approx(math.log(8), abs=1e-6)


@pytest.mark.parity
def test_loss_gradient_and_centre_are_lightly_s() -> None:
    import_torchvision()  # lightly would import a build that does not fit
    library = pytest.importorskip("lightly.loss", reason='lightly is not installed: pip install -e ".[parity]"')
    theirs = library.DINOLoss(6, teacher_temp=0.0625, warmup_teacher_temp=0.0625).double()
    teacher = Given(outputs(2, 1).flatten(0, 1))
    task = task_of(teacher)
    for seed in range(2, 5):  # the centre of each step is that of those before
        teacher.values.data = outputs(2, seed).flatten(0, 1)
        given, twin = outputs(2).requires_grad_(), outputs(2).requires_grad_()
        found = task.step(Given(given.flatten(0, 1).detach()), view_batch(4))
        loss = distillation_loss(given, outputs(2, seed), teacher.centre, 0.1, 0.0625)
        expected = theirs(list(outputs(2, seed)), list(twin))
        loss.backward(), expected.backward()
        assert found.loss.item() == pytest.approx(expected.item(), abs=1e-12)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
        torch.testing.assert_close(given.grad, twin.grad, rtol=0, atol=1e-12)
        task.move_centre(), task.forget()
        torch.testing.assert_close(teacher.centre, theirs.center.view(-1), rtol=0, atol=1e-12)


# ---- who teaches whom ----------------------------------------------------------------------------------------------


def test_momentum_and_temperature_follow_their_formulas() -> None:
    assert momentum(0.99, 0, 100) == pytest.approx(0.99) and momentum(0.99, 50, 100) == pytest.approx(0.995)
    assert momentum(0.99, 100, 100) == 1
    found = [teacher_temperature(0.04, 0.07, 0.3, step, 100) for step in (0, 15, 30, 99)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert teacher_temperature(0.04, 0.07, 0.0, 0, 100) == 0.07


def config(**flags: Any) -> train.Config:
    return train.Config(**{"model": "tiny", "epochs": 1, "eval_every": 2, "batch_size": 4, "plots": False, **flags})


def step_of(total_steps: int = 4, **flags: Any) -> DistillationStep:
    torch.manual_seed(0)
    model = build("tiny")
    own = config(**{"device": "cpu", "ema": 0.9, "freeze": 0.0, "out": "unused", **flags})
    return DistillationStep(model, task_of(model, total_steps), sgd(0.5), own)


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_the_teacher_starts_as_the_student_and_moves_to_it_after_each_update() -> None:
    """In the first step too, where torch's average would become the student. Its centre and temperature move in each step."""
    step = step_of(warm_temperature=0.07, temperature=0.03, temperature_warmup=0.5)
    student, teacher = step.model, step.task.teacher
    assert all(torch.equal(a, b) for a, b in zip(weights(student), weights(teacher)))
    expected, centre = weights(teacher), torch.zeros(12)
    for i, temperature in enumerate((0.07, 0.05, 0.03)):
        with torch.no_grad():
            views = torch.cat([view_batch(4)["first"], view_batch(4)["second"]])
            centre = 0.9 * centre + 0.1 * teacher(views).mean(0)
        step([view_batch(4)])
        torch.testing.assert_close(teacher.centre, centre, rtol=0, atol=1e-6)
        assert step.task.temperature == pytest.approx(temperature)
        kept = 1 - 0.1 * (1 + math.cos(math.pi * i / 4)) / 2
        expected = [kept * old + (1 - kept) * new for old, new in zip(expected, weights(student))]
        for found, value in zip(weights(teacher), expected):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-6)
    assert not torch.equal(weights(teacher)[0], weights(student)[0])


def test_student_and_teacher_share_nothing_and_the_teacher_has_no_gradient() -> None:
    step = step_of()
    student, teacher = step.model, step.task.teacher
    stored = {tensor.data_ptr() for tensor in student.state_dict().values()}
    assert not stored & {tensor.data_ptr() for tensor in teacher.state_dict().values()}
    step.task.step(student, view_batch(4)).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert count_parameters(teacher) == count_parameters(student)  # the run's summary is of the teacher
    before = student(view_batch(4)["images"])
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.zero_()
    assert torch.equal(student(view_batch(4)["images"]), before)


def test_the_student_s_last_layer_is_frozen_at_first_and_nothing_else() -> None:
    step = step_of(freeze=0.25)
    before = weights(step.model)
    step([view_batch(4)])
    moved = {name: not torch.equal(a, b) for (name, a), b in zip(step.model.named_parameters(), before)}
    assert [name for name, did in moved.items() if not did] == ["head.prototypes.weight"]
    step([view_batch(4)])
    assert not torch.equal(step.model.head.prototypes.weight, before[-1])


def test_the_centre_is_that_of_the_whole_step_and_only_training_moves_it() -> None:
    batch = view_batch(4)
    whole, parts = step_of(), step_of(accumulate=2)
    halves = [{name: rows[part] for name, rows in batch.items()} for part in (slice(0, 1), slice(1, 4))]
    expected = 0.1 * whole.task.teacher(torch.cat([batch["first"], batch["second"]])).mean(0)
    whole([batch]), parts(halves)
    for step in (whole, parts):
        torch.testing.assert_close(step.task.teacher.centre, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.model.head.fc1.weight, whole.model.head.fc1.weight, rtol=0, atol=1e-5)
    teacher = whole.task.teacher
    before = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        whole.task.begin_evaluation(teacher.eval())
        output = whole.task.eval_step(teacher, batch)
        whole.task.temperature = 1.0  # that of a step; evaluation compares by the last one's
        assert whole.task.eval_step(teacher, batch).loss == output.loss
    assert output.outputs["wrong"].shape == (4,)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_run_keeps_teacher_and_centre_and_counts_steps_as_the_loop_does(tmp_path: Any, monkeypatch: Any) -> None:
    seen = []
    monkeypatch.setattr("dl.modules.SelfSupervised.DINO.task.momentum", lambda *args: seen.append(args) or momentum(*args))
    train.main(config(out=str(tmp_path), accumulate=2, epochs=2, ema=0.8), byte_splits(32))  # 10 images: 3 batches, 2 steps
    assert seen == [(0.8, step, 4) for step in range(4)]
    state, best = (checkpoint.load(tmp_path / name) for name in ("last.pt", "best.pt"))
    assert state["ema"]["module.centre"].any() and best["centre"].any()  # what was best is a teacher
    assert not torch.equal(state["ema"]["module.head.fc1.weight"], state["model"]["head.fc1.weight"])


def test_the_curve_of_a_student_that_says_the_same_of_all_images_is_at_1() -> None:
    for row, expected in ((torch.ones(1, 4).repeat(8, 1), 1.0), (torch.cat([torch.eye(4), -torch.eye(4)]), 0.0)):
        task = task_of(Given(outputs(2)[..., :4].flatten(0, 1)))
        curve = task.train_metrics()["collapse"]
        curve.update(task.step(Given(row.double()), view_batch(4)).outputs)
        assert curve.compute() == pytest.approx(expected, abs=1e-6)


def part_of(batch: Batch, rank: int) -> Batch:
    rows = slice(0, 3) if rank == 0 else slice(3, 8)
    return {name: value[rows] for name, value in batch.items()}


def run_rank(rank: int, folder: str, parallel: str) -> None:
    """Two steps on three and on five of eight images."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    step = step_of(parallel=parallel)
    for _ in range(2):
        step([part_of(view_batch(8), rank)])
    networks = (step.model, step.task.teacher)
    torch.save([full_state_dict(network.state_dict(), gather=True) for network in networks], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_have_student_teacher_and_centre_of_one_process(tmp_path: Path, parallel: str) -> None:
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path), parallel), nprocs=2)
    step = step_of()
    for _ in range(2):
        step([view_batch(8)])
    assert step.task.teacher.centre.any()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for ours, expected in zip(found, (step.model.state_dict(), step.task.teacher.state_dict())):
            for name, value in expected.items():
                torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6, msg=name)


# ---- the network ---------------------------------------------------------------------------------------------------


def double(preset: str = "tiny", **overrides: Any) -> DINO:
    """A network in float64 whose biases and norms count."""
    torch.manual_seed(0)
    model = build(preset, **overrides).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_outputs_are_cosines_with_the_prototypes_and_features_are_the_class_token_s() -> None:
    model = double()
    tokens = model.encoder.patch_embedding(images()).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.encoder.class_token.expand(3, 1, -1), tokens], 1) + model.encoder.position_embedding
    features = model.encoder.norm(model.encoder.blocks[0](tokens))[:, 0]
    torch.testing.assert_close(model.represent(images()), features)
    hidden = model.head.fc3(nn.GELU()(model.head.fc2(nn.GELU()(model.head.fc1(features)))))
    rows = model.head.prototypes.weight
    torch.testing.assert_close(model(images()), torch.cosine_similarity(hidden[:, None], rows[None], dim=2))
    before = model(images())
    rows.data *= 3  # weight normalisation: directions count alone
    torch.testing.assert_close(model(images()), before)


def test_the_paper_s_encoder_is_a_vit_without_its_classifier() -> None:
    with without_values():
        assert count_parameters(build("vit_s_16").encoder) == 21_665_664  # table 1: 21 M
        head = count_parameters(build("vit_s_16").head)
    assert head == 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 256 * 65536


@pytest.mark.parity
def test_the_head_is_lightly_s() -> None:
    import_torchvision()
    library = pytest.importorskip("lightly.models.modules.heads", reason='not installed: pip install -e ".[parity]"')
    head, theirs = double().head, library.DINOProjectionHead(16, 16, 8, 12).double()
    for ours, layer in zip((head.fc1, head.fc2, head.fc3), (m for m in theirs.layers if isinstance(m, nn.Linear))):
        layer.load_state_dict(ours.state_dict())
    theirs.last_layer.weight_v.data.copy_(head.prototypes.weight)
    x = torch.randn(5, 16, dtype=torch.float64)
    found, expected = head(x), theirs(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    found.square().sum().backward(), expected.square().sum().backward()
    torch.testing.assert_close(head.prototypes.weight.grad, theirs.last_layer.weight_v.grad, rtol=0, atol=1e-12)


@pytest.mark.parity
def test_the_encoder_is_that_of_transformers() -> None:
    import_torchvision()  # transformers would import a build that does not fit
    library = pytest.importorskip("transformers", reason='transformers is not installed: pip install -e ".[parity]"')
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    given = library.ViTConfig(**sizes, image_size=8, patch_size=4, layer_norm_eps=1e-6)
    twin, model = library.ViTModel(given, add_pooling_layer=False).double().eval(), double(depth=2).encoder
    embeddings = twin.embeddings
    with torch.no_grad():
        embeddings.patch_embeddings.projection.load_state_dict(model.patch_embedding.state_dict())
        embeddings.cls_token.copy_(model.class_token)
        embeddings.position_embeddings.copy_(model.position_embedding)
        twin.layernorm.load_state_dict(model.norm.state_dict())
        for block, layer in zip(model.blocks, twin.layers):
            joint = block.attention.query_key_value
            parts = zip(joint.weight.chunk(3), joint.bias.chunk(3), ("q_proj", "k_proj", "v_proj"))
            for weight, bias, name in parts:
                layer.attention.get_submodule(name).load_state_dict({"weight": weight, "bias": bias})
            names = {"attention.output": "attention.o_proj", "norm1": "layernorm_before", "norm2": "layernorm_after"}
            names |= {"feed_forward.fc1": "mlp.fc1", "feed_forward.fc2": "mlp.fc2"}
            for ours, name in names.items():
                layer.get_submodule(name).load_state_dict(block.get_submodule(ours).state_dict())
    expected = twin(images()).last_hidden_state[:, 0]
    torch.testing.assert_close(model(images()), expected, rtol=0, atol=1e-9)


# ---- the recipe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{"ema": 0.0}, {"temperature": 0.0}, {"freeze": 1.0}, {"temperature_warmup": -0.1}])
def test_what_cannot_be_asked_for_is_refused(flags: dict) -> None:
    with pytest.raises(UserError, match="--" + next(iter(flags)).replace("_", "-")):
        config(**flags)


def test_patches_that_do_not_divide_the_image_are_refused() -> None:
    with pytest.raises(UserError, match="--model vit_s_16 does not fit --data fashion_mnist"):
        train.build_model(config(model="vit_s_16", data="fashion_mnist"))


def teaching() -> Distillation:
    torch.manual_seed(1)
    return task_of(build("tiny"))


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    view_batch,
    splits=lambda _: byte_splits(32),
    task=teaching,
    overfit=[testing.Overfit(lr=1e-2, below=1.5)],
)
