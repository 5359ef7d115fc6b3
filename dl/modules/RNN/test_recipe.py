"""What the recipes share: streams whose state is carried, exact resume, averaged SGD, samples."""

import dataclasses
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dl.cli import catalogue
from dl.modules.RNN import generate as command
from dl.modules.RNN import recipe
from dl.modules.RNN.averaging import AveragingTrainer
from dl.modules.RNN.AWDLSTM import train as awd_train
from dl.modules.RNN.data import stream_splits
from dl.modules.RNN.generation import Recurrent
from dl.modules.RNN.GRU import train as gru_train
from dl.modules.RNN.LSTM import model as lstm_model
from dl.modules.RNN.LSTM import train as lstm_train
from dl.modules.RNN.RNN import model as rnn_model
from dl.modules.RNN.task import StreamModeling
from dl.modules.RNN.testing import STREAM_RUN, TEXT, stream_batch, tiny_streams
from dl.mytorch import Trainer, checkpoint, testing
from dl.mytorch.command_line import parse
from dl.mytorch.config import UserError
from dl.mytorch.data import Splits, Vocabulary, shakespeare, sources
from dl.mytorch.data.sequences import streams
from dl.mytorch.files import read_json, write_recorded_json
from dl.mytorch.optim import constant, sgd
from dl.mytorch.run import open_run
from dl.mytorch.text.generation import generate


def config(train: ModuleType, out: Path, **changes: Any) -> Any:
    return train.Config(out=str(out), **{**STREAM_RUN, "epochs": 2, **changes})


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamModeling, "length", 3)


def test_the_state_that_is_carried_is_kept_in_the_checkpoint(tmp_path: Path, no_figures: None) -> None:
    history = lstm_train.main(config(lstm_train, tmp_path, steps=2), tiny_streams())
    state = checkpoint.load(tmp_path / "last.pt")["task"]
    assert state and all(len(part) == 4 and part.any() for part in state.values())  # else resuming would prove nothing
    assert history[0]["val"].keys() == history[-1]["test"].keys() == {"loss", "perplexity"}
    speed, batches = read_json(tmp_path / "speed.json"), islice(tiny_streams().train.batches(), 2)
    assert (speed["unit"], speed["items"]) == ("token", sum(int((batch["targets"] >= 0).sum()) for batch in batches))


def test_averaged_sgd_resumes_exactly(tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AveragingTrainer, "patience", 1)
    asked = config(lstm_train, tmp_path, optimizer="ntasgd", lr=60.0, grad_clip=0.25, epochs=2, eval_every=2, save_every=2)
    testing.assert_resumes_exactly(lstm_train.main, asked, tiny_streams)
    state = checkpoint.load(tmp_path / "whole" / "last.pt")
    assert state["ema"]["n_averaged"] > 1  # the mean had begun


def test_one_epoch_of_streams_is_one_pass_over_the_whole_text() -> None:
    """The loss of carried states is that of reading each part from its beginning to its end."""
    model, data = rnn_model.build("tiny", vocab_size=15).eval(), tiny_streams()
    task, losses, counts = StreamModeling(None), [], []
    for batch in data.train.batches():
        scored = task.step(model, batch)
        losses.append(scored.loss.item() * int(scored.count))
        counts.append(int(scored.count))
    rows = streams(torch.tensor(data.vocabularies["tokens"].encode(TEXT))[:333], 83, 4)  # 332 / 4 at once
    scores = model(rows["tokens"], None, rows["targets"]).scores
    assert sum(counts) == 332 and sum(losses) == pytest.approx(-scores.sum().item(), rel=1e-5)
    again = task.step(model, next(data.train.batches()))  # a new epoch begins with zeros
    assert again.loss.item() * int(again.count) == pytest.approx(losses[0], rel=1e-6)


def test_chunks_that_begin_are_read_from_a_zero_state() -> None:
    model, task = lstm_model.build("tiny").eval(), StreamModeling(None)
    batch = stream_batch()
    first, second = (task.step(model, batch).loss for _ in range(2))
    assert torch.equal(first, second) and task.carried[0].any()


def test_flags_of_the_schedule_and_of_adamw_are_those_of_the_recipe(tmp_path: Path, no_figures: None) -> None:
    changes = {"warmup": 3, "min_lr_ratio": 0.1, "beta2": 0.99, "steps": 6, "weight_decay": 0.1}
    for name, flags in (("plain", {"steps": 6}), ("changed", changes)):
        lstm_train.main(config(lstm_train, tmp_path / name, **flags), tiny_streams())
    plain, changed = (read_json(tmp_path / name / "config.json") for name in ("plain", "changed"))
    assert plain["optimizer"] == "adamw(lr=0.01, weight_decay=0.0, fused=True)"  # as in the records
    assert plain["schedule"] == "warmup_cosine(warmup=0.02)"
    assert changed["optimizer"] == "adamw(lr=0.01, weight_decay=0.1, betas=(0.9, 0.99), fused=True)"
    assert changed["schedule"] == "warmup_cosine(warmup=3, floor=0.1)"


def test_evaluation_leaves_the_carried_state_alone() -> None:
    model, data = lstm_model.build("tiny", vocab_size=15), tiny_streams()
    task, batches = StreamModeling(None), data.train.batches()
    task.step(model, next(batches))
    before = task.state()
    task.eval_step(model, next(data.val.batches()))
    assert all(torch.equal(part, before[name]) for name, part in task.state().items())
    assert not any(part.requires_grad for part in before.values())  # gradients end with the batch


def test_averaging_begins_when_validation_stalls_and_all_steps_since_count_alike(tmp_path: Path, no_figures: None) -> None:
    asked = config(lstm_train, tmp_path, dropout=0.0, epochs=1, eval_every=1)
    task = StreamModeling(tiny_streams().vocabularies["tokens"])
    trainer = AveragingTrainer(lstm_model.build("tiny", vocab_size=15), task, sgd(0.5), constant(), asked)
    trainer.patience = 2
    losses = iter([5.0, 4.0, 4.5, 4.4, 4.6, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0])  # the fifth is above the best of the first two
    trainer.evaluate = lambda loader: {"loss": next(losses)}  # type: ignore[method-assign]
    seen: list[torch.Tensor] = []
    step = trainer.step.apply_gradients

    def watched(*given: Any) -> None:
        step(*given)
        seen.append(trainer.model.embedding.weight.detach().clone())

    trainer.step.apply_gradients = watched  # type: ignore[method-assign]
    data = tiny_streams()
    trainer.fit(Splits(data.train, data.val, vocabularies=data.vocabularies))
    assert trainer.triggered() and trainer.step.ema.n_averaged == len(seen) - 4
    last = checkpoint.load(tmp_path / "last.pt")["ema"]["module.embedding.weight"]
    torch.testing.assert_close(last, torch.stack(seen[4:]).mean(0))


@pytest.mark.parametrize(
    ("patience", "losses", "begins"),
    [
        (1, [3.0, 2.0, 2.0], None),  # not above 2, the best of the first
        (1, [2.0, 1.0, 2.0], None),  # as bad as the first is not worse
        (1, [2.0, 1.0, 2.1], 3),
        (2, [2.0, 1.0, 2.1], None),  # none lies more than two before the third
        (1, [2.0, 1.0, 1.5], None),  # the second is not more than one before the third
        (2, [2.0, 1.0, 1.0, 2.1], 4),
        (0, [2.0, 2.0, 2.1], 3),
    ],
)
def test_averaging_begins_with_a_loss_above_the_best_of_those_more_than_the_patience_before(
    patience: int, losses: list[float], begins: int | None
) -> None:
    """Algorithm 1: t > n and v_t > min of v_0 ... v_(t - n - 1), t from 0. The paper's n is 5."""
    assert AveragingTrainer.patience == 5
    trainer = AveragingTrainer.__new__(AveragingTrainer)
    trainer.patience, trainer.task, trainer.history = patience, StreamModeling(None), []
    found = []
    for loss in losses:
        trainer.history.append({"val": {"loss": loss}})
        found.append(trainer.triggered())
    assert found == [begins is not None and place >= begins for place in range(1, len(losses) + 1)]


def test_flags_reach_model_task_and_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda trainer, data: trainer)
    asked = config(lstm_train, tmp_path, optimizer="ntasgd", lr=30.0, ar_alpha=2.0, tar_beta=1.0, dropout=0.3)
    trainer = lstm_train.main(asked, tiny_streams())
    assert isinstance(trainer, AveragingTrainer) and isinstance(trainer.step.optimizer, torch.optim.SGD)
    assert (trainer.task.ar_alpha, trainer.task.tar_beta, trainer.model.dropout.p) == (2.0, 1.0, 0.3)
    assert trainer.schedule(77, 100) == 1
    trainer = lstm_train.main(config(lstm_train, tmp_path, dropout=-1.0), tiny_streams())
    assert isinstance(trainer.step.optimizer, torch.optim.AdamW) and trainer.model.dropout.p == 0


def test_awd_of_the_recipe_of_lstm_is_the_recipe_of_awd_lstm(
    tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands and folders of version 0.1, in which AWD-LSTM was a preset of LSTM."""
    out, given, main = tmp_path / "run", [], awd_train.main
    monkeypatch.setattr(awd_train, "main", given.append)
    assert not catalogue.hand_over("RNN/LSTM", lstm_train.Config, ["--model=char"])
    command_of_0_1 = f"--model awd_tiny --length 8 --activation 2 --clip 0.5 --batch-size 4 --steps 1 --out {out}"
    assert catalogue.hand_over("RNN/LSTM", lstm_train.Config, command_of_0_1.split())
    (asked,) = given
    wanted = {
        "model": "tiny",
        "bptt_length": 8,
        "ar_alpha": 2.0,
        "grad_clip": 0.5,
        "batch_size": 4,
        "steps": 1,
        "out": str(out),
    }
    assert dataclasses.asdict(asked) == dataclasses.asdict(lstm_train.Config(**wanted))  # LSTM's defaults
    main(asked, tiny_streams())
    described = read_json(out / "config.json")
    assert described["recipe"] == "RNN/AWDLSTM"
    old = {**described, "recipe": "RNN/LSTM", "config": {**described["config"], "model": "awd_tiny"}}
    write_recorded_json(old, out / "config.json")
    capsys.readouterr()
    assert command.main([str(out), "to be", "--tokens", "3"]) == 0
    open_run(asked)  # may be resumed
    write_recorded_json({**old, "config": described["config"]}, out / "config.json")  # an LSTM
    with pytest.raises(UserError, match="run with another config .recipe RNN/LSTM there, RNN/AWDLSTM asked for"):
        open_run(asked)


def test_impossible_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    averaged = [f"{flag} --optimizer ntasgd" for flag in ("--ema 0.9", "--parallel fsdp", "--layerwise stream")]
    lengths = ("--bptt-length 0", "--bptt-length 1000000000000000000")
    for flags in (*lengths, "--dropout 1", "--ar-alpha -1", "--tar-beta 1 --bptt-length 1", *averaged):
        with pytest.raises(SystemExit):
            parse(lstm_train.Config, flags.split())
        assert f"{flags.split()[0]} has to be" in capsys.readouterr().err


def test_texts_are_read_in_as_many_streams_as_a_batch_has_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "wikitext-2").mkdir()
    for name in ("train", "valid", "test"):
        (tmp_path / "wikitext-2" / f"wiki.{name}.tokens").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(sources, "DATA", tmp_path)
    for data, parts in (("shakespeare", 2), ("wikitext2", 3)):
        found = stream_splits(config(lstm_train, tmp_path, data=data), 5)
        assert len([part for part in found if part]) == parts
        first, second = list(found.train.batches())[:2]
        assert first["tokens"].shape == (4, 5) and first["begins"].all() and not second["begins"].any()
        assert torch.equal(first["targets"][:, -1], second["tokens"][:, 0])  # starts where the one before has ended
    asked = config(lstm_train, tmp_path, data="shakespeare")
    alone, blocks = stream_splits(asked, 5, carried=False), shakespeare(asked, 5)  # what a GPT-2 is trained and validated on
    for part in ("train", "val"):
        for ours, theirs in zip(getattr(alone, part).batches(), getattr(blocks, part).batches(), strict=True):
            assert ours.pop("begins").all() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(UserError, match="--batch-size 1000000000: a text of 442 tokens has too few"):
        stream_splits(config(lstm_train, tmp_path, data="shakespeare", batch_size=10**9), 5)
    with pytest.raises(UserError, match="--data ptb: there are shakespeare, shakespeare-sample and wikitext2"):
        stream_splits(recipe.TrainConfig(out="x", data="ptb"), 5)


@pytest.mark.parametrize("words", [False, True])
def test_a_text_is_written_as_one_call_would_score_it(words: bool) -> None:
    model = lstm_model.build("tiny").eval()
    prompt = torch.tensor([[1, 2, 3]])
    written = generate(Recurrent(model), prompt, 6, temperature=0)
    expected = model(written[:, :-1]).scores.argmax(-1)[:, 2:]
    assert torch.equal(written[:, 3:], expected)
    tokens = ["ab", "c", "d"] if words else ["a", "c", "d"]
    vocabulary = Vocabulary([*tokens, *map(str, range(8))])
    first, second = (StreamModeling(vocabulary).preview(model)["sample"] for _ in range(2))
    assert first == second and first.startswith(tokens[0] + (" " if words else ""))
    assert not torch.equal(*(generate(Recurrent(model), prompt, 9, seed=seed) for seed in (1, 2)))


def test_a_run_continues_a_text(tmp_path: Path, no_figures: None, capsys: pytest.CaptureFixture[str]) -> None:
    gru_train.main(config(gru_train, tmp_path / "run", epochs=1), tiny_streams())
    texts = []
    for seed in ("1", "1", "2"):
        capsys.readouterr()
        assert command.main([str(tmp_path / "run"), "--tokens", "30", "--seed", seed, "to be"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("to be") and len(texts[0]) == 5 + 30 + 1
    described = read_json(tmp_path / "run" / "config.json") | {"recipe": "CNN/LeNet"}
    for arguments, message in (
        ([tmp_path / "run", ""], "one token at least"),
        ([tmp_path / "run", "X"], "'X' is not in the vocabulary"),
        ([tmp_path / "run", "to", "--tokens", "-5"], "--tokens has to be from 0 to 1,000,000; got -5"),
        ([tmp_path, "to"], "holds no trained network"),
        ([tmp_path / "run", "to"], "is a run of CNN/LeNet, not of RNN/RNN, RNN/GRU, RNN/LSTM, RNN/AWDLSTM"),
    ):
        if "LeNet" in message:
            write_recorded_json(described, tmp_path / "run" / "config.json")
        assert command.main([str(argument) for argument in arguments]) == 1
        assert message in capsys.readouterr().err
