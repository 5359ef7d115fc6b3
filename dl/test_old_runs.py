"""Run folders of version 0.1, in testdata/: without checksums, read all the same, and said to be so."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from dl import __main__ as front
from dl.cli.runs import Run
from dl.modules.Linear.LinearRegression import train as linear
from dl.modules.RNN import generate
from dl.mytorch.checkpoint import load_weights
from dl.mytorch.config import UserError
from dl.mytorch.files import read_json
from dl.mytorch.testing.pickles import Malicious

FOLDERS = Path(__file__).parent / "testdata"
LINEAR = {"epochs": 3, "num_examples": 100, "batch_size": 10, "device": "cpu"}


def folder(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDERS / f"run-0.1-{name}", tmp_path / name))


def test_an_unfinished_run_goes_on_to_the_result_that_version_0_1_had(
    tmp_path: Path, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder("linear", tmp_path)
    history = linear.main(linear.Config(out=str(out), **LINEAR))
    assert history.test["loss"] == pytest.approx(6.711431083679199, rel=1e-4)
    captured = capsys.readouterr()
    assert f"resuming {out} at step 13 of 30" in captured.out
    assert captured.err.count("written before checksums: not verified") == 1
    assert {"last.pt", "best.pt", "history.json", "speed.json"} <= read_json(out / "checksums.json").keys()


def test_a_text_is_continued_and_one_line_says_what_was_not_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder("lstm", tmp_path)
    assert generate.main([str(run), "KING", "--tokens", "5"]) == 0
    earlier, unverified = capsys.readouterr().err.splitlines()
    assert earlier.startswith(f"note: {run / 'config.json'} is of an earlier version: --clip is --grad-clip now, --length is")
    assert unverified == f"note: {run}: config.json, best.pt written before checksums: not verified"


def test_the_kernels_of_a_network_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder("squeezenet", tmp_path)
    assert front.main(["kernels", str(run), "--figure", str(tmp_path / "kernels.png")]) == 0
    assert capsys.readouterr().err.count("written before checksums: not verified") == 1


def test_shards_of_version_0_1_are_refused_by_what_resumes_and_by_what_reads_a_checkpoint(tmp_path: Path) -> None:
    out, mark = folder("linear", tmp_path), tmp_path / "executed"
    state = torch.load(out / "last.pt", weights_only=True)
    for name in ("model", "optimizers", "ema"):
        del state[name]
    torch.save(state | {"shards": "shards-13"}, out / "last.pt")
    (out / "best.pt").unlink()
    for name in ("shards-13", "best.pt"):
        (out / name).mkdir()
        (out / name / ".metadata").write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(UserError, match="shards-13 refused: it holds pickles.*finish that run with version 0.1.*--fresh"):
        linear.main(linear.Config(out=str(out), **LINEAR))
    with pytest.raises(UserError, match="best.pt is a folder, not a file"):
        Run.open(out)
    with pytest.raises(UserError, match="best.pt refused: it holds pickles"):
        load_weights(linear.build(), out / "best.pt")
    assert not mark.exists()
