"""What is recorded, what is refused, and the tables made of it; on a copy of the folders."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dl.cli import records, results, sweep_table
from dl.cli.testing import make_finished_run as make_run
from dl.cli.testing import make_project
from dl.modules.CNN.LeNet.train import Config
from dl.modules.Transformers.BERT import finetune
from dl.mytorch.config import UserError
from dl.mytorch.files import read_json, write_recorded_json


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_project(tmp_path, monkeypatch)


def test_a_record_holds_the_run_at_its_best_epoch(project: Path) -> None:
    path = records.record(make_run(project / "run", seed=3))
    assert path == project / "dl" / "modules" / "CNN" / "LeNet" / "results" / "fashion_mnist-modern-seed3.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["recipe"], record["seed"], record["commit"], record["ranks"]) == ("CNN/LeNet", 3, "abc1234", 1)
    assert (record["optimizer"], record["schedule"]) == ("sgd(lr=0.1, momentum=0.9)", "warmup_cosine(warmup=0.05)")
    assert (record["training_seconds"], record["seconds"], record["peak_memory_bytes"]) == (60.0, 70.0, 1000)
    assert (record["file"], record["best_epoch"]) == ("train", 2)
    assert record["train"] == {"loss": 0.5} and record["val"] == {"loss": 0.0}
    assert record["test"] == {"loss": 0.25, "top1_error": 0.1}
    assert record["config"]["lr"] == Config.lr and record["versions"]["torch"] == "2.13.0"
    assert (record["processor"], record["capability"], record["threads"]) == ("abacus", "beads", 1)
    assert record["command"] == f"python -m dl.modules.CNN.LeNet.train --out {project / 'run'} --seed=3 --fresh"
    assert (record["unit"], record["items_per_second"]) == ("token", 2.0)
    assert record["examples_per_second"] == 0.2 and record["share_of_peak"] is None  # of another machine than this
    assert record["sha256"]["best.pt"] == hashlib.sha256(b"weights").hexdigest()
    assert record["sha256"]["history.json"] == records.sha256(project / "run" / "history.json")


def test_a_run_of_a_modified_tree_is_recorded_only_when_allowed_and_its_row_says_so(project: Path) -> None:
    for number, commit in enumerate(("abc1234+", "")):
        run = make_run(project / f"run{number}", seed=number)
        described = json.loads((run / "config.json").read_text(encoding="utf-8")) | {"commit": commit}
        (run / "config.json").write_text(json.dumps(described), encoding="utf-8")
        with pytest.raises(UserError, match="--allow-dirty"):
            records.record(run)
        records.record(run, allow_dirty=True)
    assert "| abc1234 modified, modified |" in results.results_table("CNN/LeNet")


def test_the_share_of_the_peak_counts_three_forward_passes_of_an_example(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(project / "run", device="cpu")
    (run / "summary.txt").write_text("total  LeNet  (1, 10)  61,706  2,000\n", encoding="utf-8")
    monkeypatch.setattr(records.provenance, "machine", lambda: {"processor": "abacus"})
    monkeypatch.setattr(records, "device_name", lambda where: "abacus CPU")
    monkeypatch.setattr(records.introspect, "peak_flops", lambda where, dtype: 6000.0)
    record = json.loads(records.record(run).read_text(encoding="utf-8"))
    assert record["share_of_peak"] == 3 * 2000 * 0.2 / 6000


def test_a_record_of_an_earlier_version_is_shown_as_such_with_a_command_that_means_the_same_today(project: Path) -> None:
    path = records.record(make_run(project / "run", lr=0.2))
    record = json.loads(path.read_text(encoding="utf-8"))
    assert f"`{record['command']}` |" in results.results_table("CNN/LeNet")
    for name in records.MEASURED.keys() - {"ranks", "file"}:
        record.pop(name.rstrip("?"))
    path.write_text(json.dumps(record), encoding="utf-8")
    shown = "`python -m dl.modules.CNN.LeNet.train --lr 0.2` (recorded by an earlier version: command rebuilt) |"
    assert shown in results.results_table("CNN/LeNet")


def test_a_record_of_a_newer_version_is_refused(project: Path) -> None:
    path = records.record(make_run(project / "run"))
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 2', '"format": 3'), encoding="utf-8")
    with pytest.raises(UserError, match="by a newer version of this project: format 3, not 2"):
        results.results_table("CNN/LeNet")


def test_flags_that_change_the_result_are_in_the_name_and_others_are_not(project: Path) -> None:
    run = make_run(project / "run", accumulate=2, lr=0.05, grad_clip=1.0, device="cpu", num_workers=2, model="tiny")
    assert records.record(run).stem == "fashion_mnist-tiny-accumulate2-lr0.05-grad_clip1.0-seed0"


def test_other_folders_of_images_have_other_records(project: Path) -> None:
    names = []
    for i, data in enumerate(["folder:a/b", "folder:ab", "folder:" + "long/" * 100]):
        run = make_run(project / f"run{i}")
        described = json.loads((run / "config.json").read_text(encoding="utf-8"))
        described["config"]["data"] = data
        (run / "config.json").write_text(json.dumps(described), encoding="utf-8")
        names.append(records.record(run).name)
    assert len(set(names)) == 3 and all(name.startswith("folder") and len(name) < 120 for name in names)


def test_stages_of_a_model_have_separate_records_and_the_first_in_order_is_train_py(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_class = records.config_class
    monkeypatch.setattr(records, "config_class", lambda record: config_class({**record, "file": "train"}))
    for i, file in enumerate(("evaluate", "train")):
        run = make_run(project / file, error=0.1 * i)
        described = json.loads((run / "config.json").read_text(encoding="utf-8")) | {"file": file}
        (run / "config.json").write_text(json.dumps(described), encoding="utf-8")
        records.record(run)
    assert sorted(path.stem for path in project.rglob("results/*.json")) == [
        "fashion_mnist-evaluate-modern-seed0",
        "fashion_mnist-modern-seed0",
    ]
    assert [[records.stage(record) for record in group] for group in results.groups("CNN/LeNet")] == [[""], ["evaluate"]]


def test_recording_twice_leaves_one_record(project: Path) -> None:
    run = make_run(project / "run")
    first = records.record(run).read_bytes()
    assert records.record(run).read_bytes() == first
    assert len(results.groups("CNN/LeNet")) == 1


def test_what_is_no_finished_run_of_a_model_is_refused(project: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        records.record(project / "missing")
    with pytest.raises(UserError, match="has no config.json"):
        records.record(project)
    with pytest.raises(UserError, match="is not finished"):
        records.record(make_run(project / "half", finished=False))
    with pytest.raises(UserError, match="no model in"):
        records.record(make_run(project / "foreign", recipe="CNN/Other"))
    (make_run(project / "damaged") / "history.json").write_text('[{"epo', encoding="utf-8")
    with pytest.raises(UserError, match="history.json is damaged"):
        records.record(project / "damaged")
    assert not list(project.rglob("results/*"))


def test_a_record_without_a_field_is_refused_with_its_name(project: Path) -> None:
    path = records.record(make_run(project / "run"))
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["device"]
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=f"{path.name} lacks the field device"):
        results.results_table("CNN/LeNet")


def test_a_run_whose_history_was_changed_is_not_recorded(project: Path) -> None:
    run = make_run(project / "run")
    write_recorded_json(json.loads((run / "history.json").read_text(encoding="utf-8")), run / "history.json")
    text = (run / "history.json").read_text(encoding="utf-8")
    (run / "history.json").write_text(text.replace("0.25", "0.05"), encoding="utf-8")
    with pytest.raises(UserError, match="was changed since it was written"):
        records.record(run)


def test_seeds_make_one_row_with_mean_and_sample_deviation(project: Path) -> None:
    for seed, error in ((10, 0.12), (2, 0.10), (0, 0.11)):
        records.record(make_run(project / f"run{seed}", error, seed=seed))
    records.record(make_run(project / "other", 0.5, seed=0, steps=7, lr=0.2))
    lines = results.results_table("CNN/LeNet").splitlines()
    assert lines[0].startswith("| data | preset | settings | epochs | seeds | test top-1 error | test loss | training time")
    command = f"`python -m dl.modules.CNN.LeNet.train --out {project / 'run0'} --seed=0 --fresh`"
    errors = "11.00 \u00b1 1.00 % | 0.2500 \u00b1 0.0000"
    seeds = ", ".join(f"[{seed}](results/fashion_mnist-modern-seed{seed}.json)" for seed in (0, 2, 10))
    row = f"{Config.epochs} | {seeds} | {errors} | 60 s | abacus CPU | abc1234 | {command} |"
    assert lines[2] == f"| fashion_mnist | modern |  | {row}"
    seed = "[0](results/fashion_mnist-modern-steps7-lr0.2-seed0.json)"
    assert lines[3].startswith(f"| fashion_mnist | modern | lr 0.2 | 7 steps | {seed} | 50.00 % | 0.2500 |")
    assert len(lines) == 4


def test_a_run_without_a_test_split_is_judged_by_its_best_validation(project: Path) -> None:
    for seed in (0, 1):
        run = make_run(project / f"run{seed}", finished=False, seed=seed)
        if seed:
            write_recorded_json(read_json(run / "speed.json") | {"finished": True}, run / "speed.json")
        else:
            (run / "curves.png").touch()  # the sign of its end, in runs of 0.1
        record = json.loads(records.record(run).read_text(encoding="utf-8"))
        assert "test" not in record and record["best_epoch"] == 2 and record["val"] == {"loss": 0.0}
    lines = results.results_table("CNN/LeNet").splitlines()
    assert "| validation loss |" in lines[0] and "| 0.0000 \u00b1 0.0000 |" in lines[2]
    assert results.best_results("CNN/LeNet") == ["fashion_mnist: validation loss 0.0000 \u00b1 0.0000 (modern, 60 s)"]


def test_a_return_is_recorded_as_its_negative_and_shown_as_it_is() -> None:
    """An agent's evaluation has no loss: that is no column."""
    test = {"loss": None, "negative_return": -487.25}
    assert records.scores({"test": test}) == {"negative_return": -487.25}
    assert records.scores({"val": test}) == {"validation_negative_return": -487.25}
    for quantity in ("negative_return", "validation_negative_return"):
        assert results.figure(quantity, -487.25) == "487.2" and results.title(quantity).endswith("return")
    assert sweep_table.shown("negative_return", [-480.0, -490.0]) == "485.0 \u00b1 7.1"
    assert sweep_table.title("negative_return") == "return"


def test_groups_are_ordered_by_seed_as_a_number(project: Path) -> None:
    for seed in (10, 9):
        records.record(make_run(project / f"run{seed}", seed=seed))
    assert [record["seed"] for record in results.groups("CNN/LeNet")[0]] == [9, 10]


def test_best_result_is_the_lowest_mean_of_each_data_set(project: Path) -> None:
    records.record(make_run(project / "a", 0.30, model="textbook"))
    records.record(make_run(project / "b", 0.10))
    records.record(make_run(project / "c", 0.20, model="lenet5"))
    records.record(make_run(project / "d", 0.01, data="mnist"))
    assert results.best_results("CNN/LeNet") == [
        "fashion_mnist: top-1 error 10.00 % (modern, 60 s)",
        "mnist: top-1 error 1.00 % (modern, 60 s)",
    ]


def test_tables_go_between_the_markers_and_nothing_else_changes(project: Path) -> None:
    records.record(make_run(project / "run"))
    reports = results.rewrite_readmes()
    assert [report.splitlines()[0].rpartition(": ")[2] for report in reports] == ["rewritten"] * 3
    for path in (project / "README.md", project / "README.zh-CN.md"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# Title\n\n<!-- models: basics -->\n\n| ") and "old" not in text
        assert text.endswith(" |\n\n<!-- /models: basics -->\n\nThe end, without a newline")
        assert "| [LeNet](dl/modules/CNN/LeNet) | [LeCun et al. 1998](http" in text
        assert " 10.00 %](dl/modules/CNN/LeNet/README.md#results) | modern" in text
    assert "| 10.00 % |" in (project / "dl" / "modules" / "CNN" / "LeNet" / "README.md").read_text(encoding="utf-8")


def test_making_the_tables_again_changes_nothing(project: Path) -> None:
    results.rewrite_readmes()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in project.rglob("README*")}
    assert all(": up to date" in report for report in results.rewrite_readmes())
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in project.rglob("README*")} == before


def test_a_model_without_records_says_so(project: Path) -> None:
    assert "No result is recorded yet." in results.rewrite_readmes()[0]


def test_a_readme_without_markers_is_left_alone(project: Path) -> None:
    text = "Tables stand between `<!-- models: basics -->` and `<!-- /models: basics -->`.\n"
    (project / "README.md").write_text(text, encoding="utf-8")
    (project / "README.zh-CN.md").unlink()
    reports = results.rewrite_readmes()
    assert "left alone" in reports[1] and "is not there" in reports[2]
    assert (project / "README.md").read_text(encoding="utf-8") == text


def test_the_command_makes_the_run_with_the_defaults_of_today(project: Path) -> None:
    run = make_run(project / "run", seed=3, lr=0.2, hflip=not Config.hflip, model="textbook", data="mnist", num_workers=2)
    hflip = "--no-hflip" if Config.hflip else "--hflip"
    expected = f"python -m dl.modules.CNN.LeNet.train --data mnist --lr 0.2 {hflip} --model textbook"
    assert records.command(json.loads(records.record(run).read_text(encoding="utf-8"))) == expected


def test_a_record_under_an_earlier_name_of_a_flag_is_that_of_today(project: Path) -> None:
    record = json.loads(records.record(make_run(project / "run", grad_clip=0.5)).read_text(encoding="utf-8"))
    record["config"]["clip"] = record["config"].pop("grad_clip")
    assert records.command(record) == "python -m dl.modules.CNN.LeNet.train --grad-clip 0.5"
    assert records.settings(record) == ["grad_clip 0.5"]


def test_the_precision_that_was_taken_is_recorded_and_in_the_command(project: Path) -> None:
    run = make_run(project / "run", precision="auto")
    described = json.loads((run / "config.json").read_text(encoding="utf-8")) | {"precision": "bf16"}
    (run / "config.json").write_text(json.dumps(described), encoding="utf-8")
    path = records.record(run)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["config"]["precision"], record["precision"]) == ("auto", "bf16")
    assert path.stem == "fashion_mnist-modern-precisionbf16-seed0"
    assert records.command(record) == "python -m dl.modules.CNN.LeNet.train --precision bf16"


def test_a_recipe_beside_train_has_its_own_defaults_and_command(project: Path) -> None:
    config = dataclasses.asdict(finetune.Config(weights="files", pooling="mean"))
    record = {"recipe": "Transformers/BERT", "file": "finetune", "config": config}
    expected = "python -m dl.modules.Transformers.BERT.finetune --weights files --pooling mean"
    assert records.command(record) == expected


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (100, "2 min"), (5990, "100 min"), (7200, "2.0 h")])
def test_times_have_a_unit_that_suits_them(seconds: float, text: str) -> None:
    assert results.time(seconds) == text


def test_a_cell_may_hold_the_signs_of_a_table() -> None:
    assert results.markdown_table(["a|b"], [["c\nd"]]) == "| a\\|b |\n| --- |\n| c<br>d |"


@pytest.mark.slow
def test_a_run_of_the_front_door_can_be_recorded(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    flags = ["--data", "fashion_mnist-sample", "--model", "tiny", "--steps", "2", "--out", "run"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # in a copy of the folders, `dl` would be the copy
    subprocess.run([sys.executable, "-m", "dl", "train", "lenet", *flags], cwd=elsewhere, check=True, timeout=300)
    record = json.loads(records.record(elsewhere / "run").read_text(encoding="utf-8"))
    assert record["command"] == f"python -m dl.modules.CNN.LeNet.train {' '.join(flags)}"
    assert 0 < record["test"]["top1_error"] <= 1


def assert_up_to_date(tables: list[tuple[Path, str, str]]) -> None:
    for path, _, table in tables:
        assert table in path.read_text(encoding="utf-8"), f"{path}: `python -m dl results` brings it up to date"


def test_tables_in_the_models_readmes_are_those_of_the_recorded_results() -> None:
    assert_up_to_date(results.models_tables())


def test_table_of_all_models_is_that_of_the_models_and_their_recorded_results() -> None:
    assert_up_to_date(results.front_tables())
