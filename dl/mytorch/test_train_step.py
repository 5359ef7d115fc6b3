"""A step as mathematics: a loop written by hand = ours, one big batch = many small ones, two optimizers = two loops."""

import os
import signal
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import StepOutput, Task, Trainer, checkpoint, testing
from dl.mytorch.data import Batch, synthetic
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.optim import adamw, constant, sgd, warmup_cosine
from dl.mytorch.tasks import Classification
from dl.mytorch.testing.training import (
    assert_close,
    fit,
    last_weights,
    small_config,
    small_model,
    trainer_for,
    weights_after_each_step,
)
from dl.mytorch.train_step import TrainStep


def test_fit_equals_a_loop_written_by_hand_bit_for_bit(tmp_path: Path) -> None:
    trainer = fit(small_config(tmp_path), schedule=warmup_cosine(0.25))
    model = small_model().train()
    loader = synthetic.image_splits().train
    optimizer = sgd(0.05, momentum=0.9)(model)
    step = 0
    for epoch in range(3):
        for batch in loader.batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * warmup_cosine(0.25)(step, 12)
            optimizer.zero_grad()
            F.cross_entropy(model(batch["images"]), batch["labels"]).backward()
            optimizer.step()
            step += 1
    assert_close(last_weights(trainer), model.state_dict(), 0.0)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_one_big_batch(tmp_path: Path, accumulate: int) -> None:
    """50 images in batches of 16, 8 + 8 or 4 x 4: the last step of an epoch has only 2."""
    whole = fit(small_config(tmp_path / "whole"))
    parts = fit(small_config(tmp_path / "parts", batch_size=16 // accumulate, accumulate=accumulate))
    assert parts.steps_done == whole.steps_done == 12
    assert_close(last_weights(whole), last_weights(parts), 1e-6)
    assert_same_history(whole, parts, 1e-6)


def assert_same_history(a: Trainer, b: Trainer, tolerance: float) -> None:
    for left, right in zip(a.history, b.history, strict=True):
        for split in ("train", "val", "test"):
            for name, value in left.get(split, {}).items():
                assert right[split][name] == pytest.approx(value, abs=tolerance), (split, name)


class Masked(Task):
    """The mean is over pixels brighter than 1, whose number differs from batch to batch and can be 0."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        bright = (batch["images"] > 1).flatten(1).any(0)[:10]  # of the first ten pixels
        logits = model(batch["images"])[:, bright]
        count = torch.tensor(logits.numel())
        return StepOutput(logits.square().mean(), count, {"loss": logits.square()})

    def metrics(self) -> dict[str, Metric]:
        return {"again": Mean("loss")}


def test_accumulation_weighs_by_count_where_counts_differ(tmp_path: Path) -> None:
    images = torch.rand(9, 1, 28, 28)
    for i in range(9):
        images[i, 0, 0, :i] = 2  # the first has nothing bright
    groups = [images[:1], images[1:3], images[3:4], images[4:]]
    models = [small_model().double() for _ in range(2)]

    def one_step(model: nn.Module, parts: list[Tensor]) -> TrainStep:
        step = TrainStep(model, Masked(), sgd(0.1), small_config(tmp_path, accumulate=len(parts)))
        step([{"images": part.double()} for part in parts])
        return step

    counts = [Masked().step(models[0], {"images": part.double()}).count.item() for part in groups]
    assert counts[0] == 0 and len(set(counts)) == 4
    # By hand: the sum of squares over all counted logits, over their number.
    reference = small_model().double()
    outputs = [reference(part.double())[:, (part > 1).flatten(1).any(0)[:10]] for part in groups]
    loss = sum(o.square().sum() for o in outputs) / sum(o.numel() for o in outputs)
    loss.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter -= 0.1 * parameter.grad
    step = one_step(models[1], groups)
    assert_close(reference.state_dict(), models[1].state_dict(), 1e-12)
    assert step.steps_done == 1 and not (tmp_path / "config.json").exists()  # without a run
    assert step.train_metrics.compute()["loss"] == pytest.approx(loss.item(), abs=1e-12)
    assert step.train_metrics.compute()["again"] == pytest.approx(loss.item(), abs=1e-12)


def test_recorded_rates_follow_the_schedule(tmp_path: Path) -> None:
    trainer = fit(small_config(tmp_path, eval_every=1), schedule=warmup_cosine(0.25))
    rates = [record["lr"] for record in trainer.history[:-1]]
    assert rates == [0.05 * warmup_cosine(0.25)(step, 12) for step in range(12)]


def test_each_step_moves_the_weights_once(tmp_path: Path) -> None:
    class Pull(Task):
        """The gradient of every weight is 1, always."""

        def step(self, model: nn.Module, batch: Batch) -> StepOutput:
            return StepOutput(sum(p.sum() for p in model.parameters()), len(batch["labels"]), {})

    trainer = Trainer(small_model(), Pull(), sgd(0.01), constant(), small_config(tmp_path, accumulate=2))
    trainer.fit(synthetic.image_splits())
    for name, before in small_model().state_dict().items():
        assert torch.allclose(last_weights(trainer)[name], before - 0.01 * 6, atol=1e-6)  # 3 epochs of 2 steps


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    config = small_config(tmp_path, steps=1, grad_clip=0.5)
    trainer = Trainer(small_model(), Classification(), sgd(1.0), constant(), config)
    trainer.fit(synthetic.image_splits())
    moved = [(last_weights(trainer)[name] - before).flatten() for name, before in small_model().state_dict().items()]
    assert torch.cat(moved).norm() == pytest.approx(0.5, rel=1e-4)


def test_moving_average_is_evaluated_and_kept(tmp_path: Path) -> None:
    trainer = trainer_for(small_config(tmp_path, ema=0.2, eval_every=1, steps=4))
    seen = weights_after_each_step(trainer)
    trainer.fit(synthetic.image_splits())
    average = seen[0]  # torch's average starts from the weights after the first step
    for weights, decay in zip(seen[1:], (2 / 11, 0.2, 0.2), strict=True):  # (1 + n) / (10 + n) after n steps, at most --ema
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    assert trainer.history.best()["step"] == 4
    assert_close(checkpoint.load(tmp_path / "best.pt"), average, 1e-6)
    assert_close(last_weights(trainer), seen[-1], 0.0)


@pytest.fixture
def usual_algorithms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what `--deterministic` sets for the whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)


def test_only_deterministic_has_torch_refuse_other_algorithms(tmp_path: Path, usual_algorithms: None) -> None:
    for deterministic in (False, True):
        trainer_for(small_config(tmp_path, deterministic=deterministic))
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if deterministic else None)


@pytest.mark.gpu
def test_on_cuda_the_same_seed_gives_the_same_bits_with_deterministic(tmp_path: Path, usual_algorithms: None) -> None:
    runs = [fit(small_config(tmp_path / name, device="cuda", deterministic=True)) for name in ("a", "b")]
    assert_close(*(last_weights(run) for run in runs), 0.0)


@pytest.mark.parametrize("setting", [{"precision": "bf16"}, {"channels_last": True}])
def test_fast_settings_stay_near_the_plain_ones(tmp_path: Path, setting: dict[str, Any]) -> None:
    plain, fast = fit(small_config(tmp_path / "plain")), fit(small_config(tmp_path / "fast", **setting))
    assert_close(last_weights(plain), last_weights(fast), 0.02 if "precision" in setting else 1e-5)
    assert all(weights.dtype == torch.float32 for weights in last_weights(fast).values())


class Alternating(TrainStep):
    """Another way to learn: an optimizer for each part of the network, one after the other."""

    def learn(self, batches: list[Batch]) -> None:
        for optimizer in self.optimizers:
            self.update(batches, self.task.step, optimizer)


def two_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [sgd(0.05, momentum=0.9)(model.conv), adamw(0.01)(model.fc)]


def test_two_optimizers_in_one_step_equal_a_loop_written_by_hand_and_resume(tmp_path: Path) -> None:
    config = small_config(tmp_path / "broken", ema=0.5)
    trainer = Trainer(small_model(), Classification(), two_optimizers, warmup_cosine(0.25), config, Alternating)
    step = trainer.step.learn
    trainer.step.learn = lambda batches: step(batches) or trainer.steps_done != 5 or signal.raise_signal(signal.SIGTERM)  # type: ignore
    with pytest.raises(SystemExit):
        trainer.fit(synthetic.image_splits())
    Trainer(small_model(), Classification(), two_optimizers, warmup_cosine(0.25), config, Alternating).fit(
        synthetic.image_splits()
    )
    undisturbed = small_config(tmp_path / "whole", ema=0.5)
    whole = Trainer(small_model(), Classification(), two_optimizers, warmup_cosine(0.25), undisturbed, Alternating)
    whole.fit(synthetic.image_splits())
    testing.assert_same_runs(tmp_path / "broken", tmp_path / "whole")

    model = small_model().train()
    optimizers = two_optimizers(model)
    rates = [0.05, 0.01]
    average = {}
    for step in range(12):
        batch = next(synthetic.image_splits().train.batches(step // 4, step % 4))
        for optimizer, rate in zip(optimizers, rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * warmup_cosine(0.25)(step, 12)
            model.zero_grad()
            F.cross_entropy(model(batch["images"]), batch["labels"]).backward()
            optimizer.step()
        now = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        decay = min(0.5, (1 + step) / (10 + step))
        average = now if step == 0 else {name: decay * average[name] + (1 - decay) * now[name] for name in now}
    assert_close(last_weights(whole), model.state_dict(), 0.0)
    ema = {name.removeprefix("module."): tensor for name, tensor in checkpoint.load(whole.out / "last.pt")["ema"].items()}
    assert_close(average, ema, 1e-6)
