"""The loop as mathematics: one big batch = many small ones, stopped and resumed = undisturbed, best = lowest."""

import dataclasses
import itertools
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import StepOutput, TrainConfig, Trainer, checkpoint, layers, load_weights, plot, precision, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, synthetic
from dl.mytorch.files import read_json, write_recorded_json
from dl.mytorch.large import memory
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification
from dl.mytorch.testing.training import (
    assert_close,
    fit,
    last_weights,
    scalars,
    small_config,
    small_model,
    stopped_run,
    trainer_for,
    weights_after_each_step,
)

# ---- choosing and testing ------------------------------------------------------------------------------------------


class Scripted(Classification):
    """Classification whose validation loss is what the script says; the test's is -1."""

    def __init__(self, script: list[float]) -> None:
        super().__init__()
        self.script = iter([*script, -1.0])

    def begin_evaluation(self, model: nn.Module) -> None:
        super().begin_evaluation(model)
        self.current = next(self.script)

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return super().eval_step(model, batch)._replace(loss=torch.tensor(self.current))


@pytest.mark.parametrize(
    ("losses", "best"), [([3, 2, 1], 3), ([1, 2, 3], 1), ([2, 1, 1], 2), ([2, 3, 1.5], 3), ([3, 1, 2], 2), ([-1, -2, 0], 2)]
)
def test_the_lowest_validation_loss_is_kept_not_the_last_nor_any_that_fell(tmp_path: Path, losses: list, best: int) -> None:
    trainer = trainer_for(small_config(tmp_path, steps=3, eval_every=1), Scripted(losses))
    weights = weights_after_each_step(trainer)
    trainer.fit(synthetic.image_splits())
    assert [record["val"]["loss"] for record in trainer.history[:-1]] == losses
    assert_close(checkpoint.load(tmp_path / "best.pt"), weights[best - 1], 0.0)
    assert_close(trainer.model.state_dict(), weights[best - 1], 0.0)  # what fit leaves in the model
    assert_close(load_weights(small_model(), tmp_path / "best.pt").state_dict(), weights[best - 1], 0.0)
    assert trainer.history[-1] == {"epoch": 1, "step": best, "test": trainer.history.test}


def test_monitor_chooses_another_quantity_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    trainer = fit(small_config(tmp_path / "a"), Classification(monitor="top1_error"))
    errors = [record["val"]["top1_error"] for record in trainer.history[:-1]]
    assert trainer.best == min(errors)
    with pytest.raises(UserError, match="loss, top1_error, top5_error"):
        fit(small_config(tmp_path / "b"), Classification(monitor="accuracy"))


def test_test_split_is_read_once_at_the_end_and_every_example_counts_once(tmp_path: Path) -> None:
    reads = []

    class Spy(Loader):
        def batches(self, epoch: int = 0, start: int = 0) -> Any:
            reads.append(name)
            for batch in super().batches(epoch, start):
                reads.append(len(batch["labels"]))
                yield batch

    data = synthetic.image_splits()
    name = "test"
    data = replace(data, test=Spy(data.test.dataset, 16))
    trainer = trainer_for(small_config(tmp_path))
    original = trainer.evaluate
    trainer.evaluate = lambda loader: reads.append("evaluate") or original(loader)  # type: ignore[method-assign]
    trainer.fit(data)
    assert reads == ["evaluate"] * 4 + ["test", 16, 3]
    by_hand = F.cross_entropy(trainer.model.eval()(data.test.dataset["images"]), data.test.dataset["labels"]).item()
    assert trainer.history.test["loss"] == pytest.approx(by_hand, abs=1e-6)


def test_a_task_is_told_when_an_evaluation_begins_with_the_model_that_is_evaluated(tmp_path: Path) -> None:
    calls = []

    class Told(Classification):
        def begin_evaluation(self, model: nn.Module) -> None:
            calls.append(model.training or model)

        def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
            calls.append(len(batch["labels"]))
            return super().eval_step(model, batch)

    trainer = trainer_for(small_config(tmp_path, ema=0.5), Told())
    trainer.evaluate(synthetic.image_splits().test)
    assert calls == [trainer.evaluated_model, 16, 3] and trainer.evaluated_model is not trainer.model


def test_training_means_come_from_the_passes_that_training_makes(tmp_path: Path) -> None:
    seen = []

    class Watched(Classification):
        def step(self, model: nn.Module, batch: Batch) -> StepOutput:
            output = super().step(model, batch)
            seen.append(
                (output.loss.item(), len(batch["labels"]), (output.outputs["logits"].argmax(1) != batch["labels"]).sum().item())
            )
            return output

    trainer = trainer_for(small_config(tmp_path, epochs=1), Watched())
    trainer.fit(synthetic.image_splits())
    seen = seen[1:]  # the first was for summary.txt
    record = trainer.history[0]["train"]
    assert len(seen) == 4
    assert record["loss"] == pytest.approx(sum(loss * n for loss, n, _ in seen) / 50, abs=1e-6)
    assert record["top1_error"] == sum(wrong for *_, wrong in seen) / 50


# ---- the same again ------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        fit(small_config(tmp_path / name), dropout=0.5)
    testing.assert_same_runs(tmp_path / "a", tmp_path / "b")


def test_evaluation_takes_no_randomness_from_training(tmp_path: Path, no_figures: None) -> None:
    class Noisy(Classification):
        def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
            torch.rand(3)
            return super().eval_step(model, batch)

        def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
            return {"noise": torch.rand(1, 4, 4)}

    often = fit(small_config(tmp_path / "often", eval_every=1, plots=True), Noisy(), dropout=0.5)
    seldom = fit(small_config(tmp_path / "seldom"), dropout=0.5)
    assert_close(last_weights(often), last_weights(seldom), 0.0)


def test_without_plots_a_run_draws_nothing_and_is_otherwise_the_same(tmp_path: Path, no_figures: None) -> None:
    class Drawing(Classification):
        def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
            drawn.append("preview")
            return {}

        report = preview

    for plots in (True, False):
        drawn: list[str] = []
        fit(small_config(tmp_path / str(plots), epochs=1, plots=plots), Drawing(), dropout=0.5)
        assert len(drawn) == 2 * plots
    testing.assert_same_runs(tmp_path / "True", tmp_path / "False")
    left = {path.name for path in (tmp_path / "False").iterdir()}
    assert "history.json" in left and not {name for name in left if name.endswith(".png") or name == "tensorboard"}


def test_a_run_without_plots_and_test_is_finished_when_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = tmp_path / "speed.json"
    for killed_before_it_was_said in (True, False, False):
        trainer_for(small_config(tmp_path, epochs=1, plots=False)).fit(replace(synthetic.image_splits(), test=None))
        assert read_json(speed)["finished"] is True
        if killed_before_it_was_said:
            write_recorded_json({name: value for name, value in read_json(speed).items() if name != "finished"}, speed)
    assert capsys.readouterr().out.count("holds this run, finished") == 1


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"accumulate": 2}, {"eval_every": 5, "save_every": 3}, {"steps": 7}])
def test_stopped_at_any_step_a_run_resumes_to_the_same_bytes(tmp_path: Path, changes: dict[str, Any]) -> None:
    changes = {"epochs": 2, **changes}
    fit(small_config(tmp_path / "whole", **changes), dropout=0.5)
    config = small_config(tmp_path / "broken", **changes)
    stops = 0
    for number in itertools.cycle([signal.SIGINT, signal.SIGTERM]):
        trainer = trainer_for(config, dropout=0.5)
        target = checkpoint.load(tmp_path / "broken/last.pt")["position"][0] + 1 if stops else 1

        def stop(running: Trainer) -> None:
            if running.steps_done == target:
                signal.raise_signal(number)

        if target >= checkpoint.load(tmp_path / "whole/last.pt")["position"][0]:
            break
        assert stopped_run(config, stop) == 128 + number
        stops += 1
    trainer.fit(synthetic.image_splits())
    assert stops >= 2
    testing.assert_same_runs(tmp_path / "whole", tmp_path / "broken")


def test_the_curve_of_a_resumed_run_has_the_points_of_an_undisturbed_one(
    tmp_path: Path, no_reports: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "curves", lambda history: None)  # that of TensorBoard is meant
    monkeypatch.setattr(plot, "save_figure", lambda figure, path: path.touch())
    flags = {"log_every": 2, "eval_every": 6, "save_every": 3, "plots": True}
    fit(small_config(tmp_path / "whole", **flags), dropout=0.5)
    config = small_config(tmp_path / "broken", **flags)
    stopped_run(config, lambda running: running.steps_done == 3 and signal.raise_signal(signal.SIGTERM))
    fit(config, dropout=0.5)
    curves = [scalars(tmp_path / run / "tensorboard/train")["step/loss"] for run in ("whole", "broken")]
    assert curves[0] == curves[1] and [step for step, _ in curves[0]] == [2, 4, 6, 8, 10, 12]


def test_a_resumed_run_knows_the_best_so_far(tmp_path: Path) -> None:
    config = small_config(tmp_path, steps=3, eval_every=1)

    def stop(running: Trainer) -> None:
        if running.steps_done == 1:
            signal.raise_signal(signal.SIGTERM)

    stopped_run(config, stop, Scripted([1, 2, 3]))
    best = (tmp_path / "best.pt").read_bytes()
    fit(config, Scripted([2, 3]))
    assert (tmp_path / "best.pt").read_bytes() == best


def test_a_signal_during_evaluation_leaves_the_evaluation_to_the_next_start(tmp_path: Path) -> None:
    class Stopping(Classification):
        def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
            signal.raise_signal(signal.SIGTERM)
            return super().eval_step(model, batch)

    fit(small_config(tmp_path / "whole"), dropout=0.5)
    assert stopped_run(small_config(tmp_path / "broken"), lambda trainer: None, Stopping()) == 143
    assert checkpoint.load(tmp_path / "broken/last.pt")["position"][0] == 4
    assert not (tmp_path / "broken/best.pt").exists()
    fit(small_config(tmp_path / "broken"), dropout=0.5)
    testing.assert_same_runs(tmp_path / "whole", tmp_path / "broken")


def test_a_crash_anywhere_in_a_file_write_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kill -9 does it: the process ends before, or right after, the n-th rename."""
    fit(small_config(tmp_path / "whole", epochs=2), dropout=0.5)
    replace = os.replace
    crashes = 0
    for n, after in itertools.product(range(1, 30, 3), (False, True)):  # each kind of file comes by; every n would take minutes
        out = tmp_path / f"broken{n}{after}"
        calls = 0

        def dying(source: Any, target: Any) -> None:
            nonlocal calls
            calls += 1
            if calls < n or after:
                replace(source, target)
            if calls == n:
                raise KeyboardInterrupt("killed")

        monkeypatch.setattr(os, "replace", dying)
        try:
            fit(small_config(out, epochs=2), dropout=0.5)
        except KeyboardInterrupt:
            crashes += 1
        monkeypatch.setattr(os, "replace", replace)
        if calls < n:
            break
        fit(small_config(out, epochs=2), dropout=0.5)
        testing.assert_same_runs(tmp_path / "whole", out)
    assert crashes >= 10


def test_a_finished_run_is_told_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = fit(small_config(tmp_path))
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    capsys.readouterr()
    again = trainer_for(small_config(tmp_path))
    again.step.learn = None  # type: ignore[assignment]
    assert again.fit(synthetic.image_splits()) == first.history
    assert "finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    assert_close(again.model.state_dict(), first.model.state_dict(), 0.0)


def test_more_data_than_the_run_began_with_is_refused(tmp_path: Path) -> None:
    fit(small_config(tmp_path))
    data = synthetic.image_splits()
    longer = Loader(synthetic.images(100), 16, shuffle=True)
    with pytest.raises(UserError, match="4 steps an epoch, the data now gives 7"):
        trainer_for(small_config(tmp_path)).fit(replace(data, train=longer))


# ---- what goes wrong -----------------------------------------------------------------------------------------------


class LargeKernel(nn.Module):
    """A network for images of 29 pixels or more, with the parts that greedy training asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.before_blocks = nn.Conv2d(1, 4, 29)
        self.blocks = nn.ModuleList([nn.ReLU()])
        self.after_blocks = layers.sequential(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(4, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.after_blocks(self.blocks[0](self.before_blocks(images)))


@pytest.mark.parametrize("layerwise", ["none", "greedy"])
def test_images_too_small_for_the_network_are_refused_before_the_first_step(tmp_path: Path, layerwise: str) -> None:
    trainer = Trainer(LargeKernel(), Classification(), sgd(0.1), constant(), small_config(tmp_path, layerwise=layerwise))
    with pytest.raises(UserError, match="28x28 pixels are too small for this network, which takes 29x29 or more"):
        trainer.fit(synthetic.image_splits())


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_non_finite_number_stops_before_the_update_and_keeps_the_last_good_state(tmp_path: Path, poison: str) -> None:
    class Poisoned(Classification):
        def step(self, model: nn.Module, batch: Batch) -> StepOutput:
            output = super().step(model, batch)
            if trainer.steps_done < 5:
                return output
            if poison == "loss":
                return output._replace(loss=output.loss * math.inf)
            output.loss.register_hook(lambda gradient: gradient * math.nan)  # the loss itself stays finite
            return output

    trainer = trainer_for(small_config(tmp_path), Poisoned())
    weights = weights_after_each_step(trainer)
    with pytest.raises(UserError, match=r"not finite at step 6 \(epoch 2, batch 2\)"):
        trainer.fit(synthetic.image_splits())
    assert_close(trainer.model.state_dict(), weights[-1], 0.0)
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["position"][0] == 4 and all(w.isfinite().all() for w in state["model"].values())


def test_a_checkpoint_of_another_model_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    fit(config)
    path = tmp_path / "last.pt"
    state = checkpoint.load(path)
    state["model"]["fc.weight"] = torch.zeros(10, 99)
    checkpoint.save(state, path)
    with pytest.raises(UserError, match=r"last.pt belongs to another model.*fc.weight of shape \(10, 99\)"):
        fit(config)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="last.pt is damaged"):
        fit(config)


def test_another_config_is_refused_and_fresh_starts_over(tmp_path: Path) -> None:
    fit(small_config(tmp_path))
    with pytest.raises(UserError, match=r"lr 0.05 there, 0.1 asked for.*--out.*--fresh"):
        fit(small_config(tmp_path, lr=0.1))
    assert len(fit(small_config(tmp_path, lr=0.1, fresh=True)).history) == 4


def test_history_is_the_same_in_memory_and_on_disk_and_holds_no_clock(tmp_path: Path) -> None:
    trainer = fit(small_config(tmp_path))
    assert json.loads((tmp_path / "history.json").read_text(encoding="utf-8")) == trainer.history
    assert all(set(record) <= {"epoch", "step", "lr", "train", "val", "test"} for record in trainer.history)


def test_without_a_test_split_the_run_ends_with_its_best_checkpoint(tmp_path: Path) -> None:
    data = replace(synthetic.image_splits(), test=None)
    trainer = trainer_for(small_config(tmp_path))
    history = trainer.fit(data)
    assert history.test is None and len(history) == 3
    assert_close(trainer.model.state_dict(), checkpoint.load(tmp_path / "best.pt"), 0.0)
    again = trainer_for(small_config(tmp_path))
    assert again.fit(data) == history


@pytest.mark.parametrize("native", [True, False])
def test_a_run_goes_on_in_the_precision_that_auto_took_when_it_was_begun(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, config = synthetic.image_splits(), small_config(tmp_path, precision="auto")
    taken, other = ("bf16", "fp32") if native else ("fp32", "bf16")
    for here, reason in ((native, "auto: a"), (not native, f"as this run was begun; auto would take {other} here: a")):
        monkeypatch.setattr(precision, "native_bf16", lambda device: (here, "a"))
        trainer = trainer_for(config)
        trainer.open_folder(data)
        memory.report(trainer.step)
        assert capsys.readouterr().out.startswith(f"precision: {taken} ({reason})\nin memory: weights")
        with trainer.step.autocast():
            assert torch.is_autocast_enabled("cpu") is native
        described = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        assert (described["config"]["precision"], described["precision"]) == ("auto", taken)
    assert trainer_for(small_config(tmp_path, precision="auto", fresh=True)).step.precision.taken == other


def test_config_of_a_run_can_be_rebuilt_from_its_file(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    fit(config)
    assert TrainConfig(**json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["config"]) == config
    assert dataclasses.asdict(config)["lr"] == 0.05
