import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dl.__main__
from dl.cli import catalogue, sweep, sweep_table
from dl.cli.testing import write_run
from dl.mytorch.config import UserError

Config = catalogue.module("CNN/LeNet", "train").Config


def test_values_with_commas_make_the_grid() -> None:
    settings = sweep.grid(Config, ["--lr", "0.05,0.1", "--data=fashion_mnist-sample", "--plots", "on,off", "--no-compile"])
    assert list(settings) == ["lr=0.05 plots=on", "lr=0.05 plots=off", "lr=0.1 plots=on", "lr=0.1 plots=off"]
    assert settings["lr=0.1 plots=off"] == ("--lr=0.1", "--data=fashion_mnist-sample", "--no-plots", "--no-compile")
    assert sweep.grid(Config, ["--data", "folder:a,b"]) == {"": ("--data=folder:a,b",)}  # a name may have commas
    assert sweep.grid(Config, []) == {"": ()}


@pytest.mark.parametrize("words", [["--seed", "1,2"], ["--fresh"], ["lr=0.1"], ["--plots", "yes,no"]])
def test_what_is_not_for_a_sweep_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="not for a sweep|no flag|is a switch"):
        sweep.grid(Config, words)


def test_a_wrong_flag_ends_the_sweep_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        dl.__main__.main(["sweep", "CNN/LeNet", "--lr", "0.1,-1", "--out", str(tmp_path / "sweep")])
    assert end.value.code == 2 and "--lr has to be above 0" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[sweep.Trial]:
    """The trainings that a sweep starts: each leaves a finished run at once, or fails with a learning rate of 9."""
    started: list[sweep.Trial] = []

    class Done:
        def __init__(self, status: int) -> None:
            self.returncode = status

        def poll(self) -> int:
            return self.returncode

    def start(name: str, trial: sweep.Trial, jobs: int) -> Done:
        started.append(trial)
        flags = dict(word[2:].partition("=")[::2] for word in trial.flags)
        if flags["lr"] == "9":
            sweep._log(trial).write_text("epoch 1\nerror: the loss is nan\n", encoding="utf-8")
            return Done(1)
        write_run(trial.out, lr=float(flags["lr"]), seed=trial.seed, model="tiny", out=flags["out"])
        return Done(0)

    monkeypatch.setattr(sweep, "start", start)
    monkeypatch.setattr(sweep, "draw", lambda found: SimpleNamespace(savefig=lambda file, format: file.write(b"figure")))
    return started


def test_the_same_command_trains_only_what_is_not_finished(
    tmp_path: Path, trained: list[sweep.Trial], capsys: pytest.CaptureFixture
) -> None:
    words = ["--model", "tiny", "--lr", "0.05,0.1", "--seeds", "2", "--out", str(tmp_path)]
    assert sweep.main("CNN/LeNet", words) == 0
    assert [trial.title for trial in trained] == [f"lr={lr} seed={seed}" for lr in ("0.05", "0.1") for seed in (0, 1)]
    table = (tmp_path / "sweep.json").read_bytes()
    assert [each["seed"] for each in json.loads(table)["trainings"]] == [0, 1, 0, 1]
    assert (tmp_path / "sweep.png").exists()
    trained.clear()
    (tmp_path / "lr=0.1-seed=1" / "history.json").unlink()  # as of one that was killed early
    (tmp_path / "lr=0.1-seed=1").rename(tmp_path / "gone")
    assert sweep.main("CNN/LeNet", words) == 0
    assert [trial.title for trial in trained] == ["lr=0.1 seed=1"]
    assert (tmp_path / "sweep.json").read_bytes() == table
    assert "4 trainings of CNN/LeNet, 3 of them finished" in capsys.readouterr().out


def test_a_finished_run_with_other_flags_does_not_count(tmp_path: Path) -> None:
    write_run(tmp_path / "run", lr=0.05, model="tiny")
    asked = Config(out=str(tmp_path / "run"), lr=0.05, model="tiny")
    assert sweep.is_finished(tmp_path / "run", asked)
    assert not sweep.is_finished(tmp_path / "run", Config(out=str(tmp_path / "run"), lr=0.1, model="tiny"))
    assert not sweep.is_finished(tmp_path / "nothing", asked)


def test_a_training_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, trained: list[sweep.Trial], capsys: pytest.CaptureFixture
) -> None:
    assert sweep.main("CNN/LeNet", ["--lr", "9,0.1", "--jobs", "2", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "lr=9 seed=0 failed, status 1: error: the loss is nan" in out
    assert [each["setting"] for each in json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))["trainings"]] == [
        "lr=0.1"
    ]


def result(setting: str, seed: int, error: float) -> sweep_table.Result:
    quantities = {"loss": 1.0, "top1_error": error}
    return {"setting": setting, "seed": seed, "folder": "", "val": quantities, "test": quantities}


def test_the_setting_with_the_lowest_mean_is_the_best() -> None:
    found = [result("lr=1", 0, 0.10), result("lr=1", 1, 0.30), result("lr=2", 0, 0.12), result("lr=2", 1, 0.14)]
    headings, first, second = sweep_table.table(found)
    assert headings[2] == "validation top1 error" and first[1] == "2"
    assert first[0] == "lr=1" and first[-1] == "" and second[-1] == "best"
    assert second[2] == "13.00 \u00b1 1.41 %"
    assert second[3] == "0.29 % to 25.71 %"  # 13 +- 12.706 * 1.41421 / sqrt(2)


def test_the_figure_has_a_row_for_each_setting() -> None:
    (axes,) = sweep_table.draw([result("lr=1", 0, 0.10), result("lr=1", 1, 0.30), result("lr=2", 0, 0.12)]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lr=1", "lr=2"]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"] == [[10.0, 30.0], [12.0]]


def test_the_interval_is_that_of_student() -> None:
    assert sweep_table.interval([1.0]) is None
    values = [4.0, 5.0, 6.0, 7.0, 8.0]
    assert sweep_table.interval(values) == pytest.approx(2.776 * statistics.stdev(values) / 5**0.5)
    many = [float(i) for i in range(31)]  # 30 degrees of freedom: t is 2.042
    assert sweep_table.interval(many) == pytest.approx(2.042 * statistics.stdev(many) / 31**0.5, rel=2e-3)


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_ends_with_the_same_table(tmp_path: Path) -> None:
    import subprocess
    import time

    def command(out: str) -> list[str]:
        words = "sweep CNN/LeNet --model tiny --data fashion_mnist-sample --lr 0.05,0.1 --steps 30 --no-plots"
        return [sys.executable, "-m", "dl", *words.split(), "--out", str(tmp_path / out)]

    for runs in (1, 2):  # the first training is under way, and the second
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL)
        while len(list((tmp_path / "killed").glob("*/last.pt"))) < runs and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.wait()
    for out in ("killed", "undisturbed"):
        assert subprocess.run(command(out), stdout=subprocess.DEVNULL).returncode == 0
    tables = [(tmp_path / out / "sweep.json").read_text(encoding="utf-8") for out in ("killed", "undisturbed")]
    assert tables[0].replace("killed", "") == tables[1].replace("undisturbed", "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="os.killpg, the Ctrl-C of a terminal, is POSIX only")
def test_ctrl_c_saves_what_is_under_way(tmp_path: Path) -> None:
    import os
    import signal
    import subprocess
    import time

    words = "sweep CNN/LeNet --model tiny --data fashion_mnist-sample --lr 0.05,0.1 --jobs 2 --epochs 2000 --no-plots"
    command = [sys.executable, "-m", "dl", *words.split(), "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    logs = [tmp_path / f"lr={lr}-seed=0.log" for lr in (0.05, 0.1)]
    while not all(log.exists() and "epoch   1" in log.read_text(encoding="utf-8") for log in logs) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert all("saved; the same command resumes" in log.read_text(encoding="utf-8") for log in logs)
