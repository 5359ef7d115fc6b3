"""Runs are listed by their JSON files, and what a finished one does not need can go."""

import os
from pathlib import Path

import pytest

from dl import __main__ as front
from dl.cli import folders
from dl.cli.testing import write_run
from dl.mytorch.files import write_json


def test_runs_are_listed_with_figure_and_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "done")
    write_run(tmp_path / "open", finished=False)
    assert front.main(["runs", str(tmp_path)]) == 0
    done, unfinished = capsys.readouterr().out.splitlines()[2:]
    assert (
        "CNN/LeNet tiny  fashion_mnist  test loss 0.5  finished" in " ".join(done.split(" ")) and str(tmp_path / "done") in done
    )
    assert "val loss 0.5" in unfinished and "step 2" in unfinished
    assert front.main(["runs", str(tmp_path / "none")]) == 0 and "no runs below" in capsys.readouterr().out


def test_a_run_without_test_and_plots_is_finished_when_its_speed_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False)
    for speed, finished in (({"finished": True}, True), ({"seconds": 1.0}, False), (["finished"], False)):
        write_json(speed, run / "speed.json")
        assert [folder.finished for folder in folders.found(tmp_path)] == [finished]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names on this system")
def test_a_pipe_among_the_files_of_a_run_is_not_waited_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "history.json").unlink()
    for pipe in (run / "history.json", run / "speed.json", tmp_path / "config.json"):
        os.mkfifo(pipe)
    assert [(folder.path, folder.history, folder.finished) for folder in folders.found(tmp_path)] == [(run, [], False)]


def test_prune_deletes_what_resumes_of_finished_runs_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, unfinished = write_run(tmp_path / "done"), write_run(tmp_path / "open", finished=False)
    for run in (done, unfinished):
        (run / "shards-2").mkdir()
        for name in ("last.pt", "last-before.pt", "shards-2/0.bin"):
            (run / name).write_bytes(bytes(10))
    assert front.main(["runs", str(tmp_path), "--prune"]) == 0
    assert capsys.readouterr().out.startswith("deleted 30 bytes of finished runs")
    assert sorted(path.name for path in done.iterdir()) == ["best.pt", "checksums.json", "config.json", "history.json"]
    assert {"last.pt", "last-before.pt", "shards-2"} <= {path.name for path in unfinished.iterdir()}
