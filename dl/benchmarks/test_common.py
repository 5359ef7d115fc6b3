"""Rounds, ratios and flags of the benchmarks, with a clock by hand."""

from pathlib import Path

import pytest

from dl.benchmarks import common


def test_contenders_take_turns_and_rounds_that_warm_up_do_not_count() -> None:
    now, made = 0.0, []

    def work(name: str, duration: float) -> None:
        nonlocal now
        now += duration
        made.append(name)

    contenders = {"a": lambda: work("a", 1.0), "b": lambda: work("b", 4.0), "c": lambda: work("c", 2.0)}
    taken = common.seconds(contenders, rounds=2, clock=lambda: now, warm_ups=1)
    assert taken == {"a": [1.0, 1.0], "b": [4.0, 4.0], "c": [2.0, 2.0]}
    assert "".join(made) == "cab" + "abc" + "bca"
    assert common.rates(taken, items=8)["b"] == [2.0, 2.0]
    assert common.seconds({}, rounds=1) == {}  # no way of training is slow


def test_ratios_are_taken_within_a_round() -> None:
    speeds = {"nanoGPT": [10.0, 20.0, 40.0], "transformers": [5.0, 5.0, 5.0], "ours": [20.0, 10.0, 80.0]}
    assert common.table(speeds, "tokens/s").splitlines()[3].split() == ["ours", "20.0", "(10", "-", "80)", "2.00"]
    both = common.table(speeds, "tokens/s", "nanoGPT", "transformers").splitlines()
    assert both[0].endswith("of nanoGPT  of transformers") and both[3].split()[-2:] == ["2.00", "4.00"]


def test_a_benchmark_has_its_file_its_command_and_a_clock() -> None:
    parser = common.parser("dl.benchmarks.gpt", "Speed.", cpu_time=True)
    parser.add_argument("--only", type=common.some_of(["a", "b c", "d"], always="d"))
    options = common.parse(parser, ["--only", "b c"])
    assert options.out == Path("runs/benchmarks/gpt.json") and options.only == ["b c", "d"]
    assert options.command == "python -m dl.benchmarks.gpt --only 'b c'" and options.clock is common.time.perf_counter


def test_a_record_is_written_when_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = common.parser("dl.benchmarks.gpt", "Speed.")
    assert common.parse(parser, ["--record"]).out == common.RESULTS / "gpt.json"
    assert common.parse(parser, ["--out", str(tmp_path)]).out == tmp_path
    with pytest.raises(SystemExit):
        common.parse(parser, ["--record", "--out", str(tmp_path)])
    assert "two files" in capsys.readouterr().err


def test_a_contender_that_there_is_not_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = common.parser("dl.benchmarks.gpt", "Speed.")
    parser.add_argument("--only", type=common.some_of(["a", "b"]))
    with pytest.raises(SystemExit):
        common.parse(parser, ["--only", "x,a"])
    error = capsys.readouterr().err
    assert error.startswith("error: argument --only: x: there are a, b") and error.count("\n") == 1


def test_the_seconds_of_a_core_are_for_one_thread(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for threads in (1, 2):
        monkeypatch.setattr(common.torch, "get_num_threads", lambda: threads)
        parser = common.parser("dl.benchmarks.gpt", "Speed.", cpu_time=True)
        if threads == 1:
            assert common.parse(parser, ["--cpu-time"]).clock is common.time.process_time
        else:
            with pytest.raises(SystemExit):
                common.parse(parser, ["--cpu-time"])
    assert "OMP_NUM_THREADS=1" in capsys.readouterr().err
