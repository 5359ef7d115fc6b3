"""The split and the names of a run: written once, compared ever after."""

from pathlib import Path

import pytest

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.split import FILE, check_split, names_file, read_names, record_names, record_split
from dl.mytorch.files import write_recorded_json

SPLIT = {"train": ["a/1", "a/2"], "val": ["a/3"], "test": ["a/4"]}


def test_a_split_is_written_once_and_compared_after(tmp_path: Path) -> None:
    config = TrainConfig(str(tmp_path), "x")
    check_split(SPLIT, config)  # no run yet
    record_split(SPLIT, tmp_path)
    before = (tmp_path / FILE).read_bytes()
    check_split(SPLIT, config)
    record_split(SPLIT, tmp_path)
    other = SPLIT | {"val": ["a/2"], "train": ["a/1", "a/3"]}
    for call in (lambda: check_split(other, config), lambda: record_split(other, tmp_path)):
        with pytest.raises(UserError, match="its parts are others"):
            call()
    assert (tmp_path / FILE).read_bytes() == before
    check_split(other, TrainConfig(str(tmp_path), "x", fresh=True))


def test_a_split_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    record_split(SPLIT, tmp_path)
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text(encoding="utf-8").replace("a/3", "a/5"), encoding="utf-8")
    with pytest.raises(UserError, match="split.json was changed since it was written"):
        check_split(SPLIT, TrainConfig(str(tmp_path), "x"))


@pytest.mark.parametrize("name", ["names.json", "vocabulary-classes.json"])
def test_names_of_classes_are_recorded_once_or_as_version_0_1_did_and_others_are_refused(tmp_path: Path, name: str) -> None:
    if name != "names.json":
        write_recorded_json(["cat", "dog"], tmp_path / name)
    for _ in range(2):
        record_names(("cat", "dog"), tmp_path)
    assert names_file(tmp_path) == tmp_path / name and read_names(tmp_path / name) == ("cat", "dog")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["checksums.json", name])
    for names, differs in (
        (("dog", "cat"), "class 0 is cat there, dog here"),
        (("cat",), "has 2 classes, the data 1: some are gone"),
    ):
        with pytest.raises(UserError, match=differs):
            record_names(names, tmp_path)


@pytest.mark.parametrize("names", [[], ["cat", "cat"]])
def test_files_that_name_no_classes_are_refused(tmp_path: Path, names: list[str]) -> None:
    write_recorded_json(names, tmp_path / "names.json")
    with pytest.raises(UserError, match="names.json has to name the classes, each once"):
        read_names(tmp_path / "names.json")
