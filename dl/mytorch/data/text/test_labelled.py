"""Own sentences with labels: read strictly, split without leaks."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dl.mytorch import TrainConfig
from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary
from dl.mytorch.data.split import record_names
from dl.mytorch.data.text.labelled import class_count, is_known, labelled, labelled_splits, read_labelled
from dl.mytorch.data.text.sst2 import Review


class Letters:
    """The letters of a sentence."""

    vocabulary = Vocabulary(["<pad>", "<unk>", "a", "b"])
    padding = 0

    def encode(self, text: str, length: int) -> Tensor:
        return torch.tensor(self.vocabulary.encode(list(text)[:length]))


def config(path: Path) -> TrainConfig:
    return TrainConfig(out=str(path.parent), data=f"labelled:{path}", batch_size=4)


def test_own_sentences_are_a_csv_or_lines_with_tabs_and_labels_are_numbered_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"Good, very.",positive\nBad,negative\nSo so,neutral', encoding="utf-8")
    found = [Review("Good, very.", 2), Review("Bad", 0), Review("So so", 1)]
    assert read_labelled(tmp_path / "a.csv") == (found, ("negative", "neutral", "positive"))
    (tmp_path / "a.tsv").write_text("Good, very.\tpositive\nBad\tnegative\nSo so\tneutral\n", encoding="utf-8")
    assert read_labelled(tmp_path / "a.tsv") == read_labelled(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("good\tyes\nbad\n", "line 2: 'bad' is no sentence with a label"),
        ("good\tyes\nbad\tyes\n", "has 1 different labels"),
        ("good\tyes\nbad\tno\n", "2 different sentences are too few"),
        ("good\tyes\nbad\tno\nfair\tmaybe", "is left to learn from"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(text: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"a.tsv.*{wrong}"):
        labelled(config(tmp_path / "a.tsv"))


def test_equal_sentences_are_in_one_part_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [f"{'ab'[i % 2] * (i // 2 + 1)}\t{'no' if i % 2 else 'yes'}" for i in range(40)] * 2
    for name, order in (("a.tsv", lines), ("b.tsv", lines[::-1])):
        (tmp_path / name).write_text("\n".join(order), encoding="utf-8")
    one, other = (labelled(config(tmp_path / name)) for name in ("a.tsv", "b.tsv"))
    assert [len(part) for part in one[:3]] == [64, 8, 8] and one.names == ("no", "yes")
    texts = [{text for text, _ in part} for part in one[:3]]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert [sorted(part) for part in one[:3]] == [sorted(part) for part in other[:3]]
    seeds = [labelled(dataclasses.replace(config(tmp_path / "a.tsv"), seed=seed)).test for seed in (1, 2)]
    assert seeds[0] != seeds[1]
    splits = labelled_splits(config(tmp_path / "a.tsv"), Letters(), length=5)
    assert splits.names == ("no", "yes") and next(splits.val.batches())["tokens"].shape[1] <= 5


def test_a_run_has_as_many_classes_as_names_and_sst_2_has_two(tmp_path: Path) -> None:
    own = config(tmp_path / "a.tsv")
    assert class_count(own) == 2
    record_names(["a", "b", "c"], tmp_path)
    assert class_count(own) == 3
    assert is_known("sst2") and is_known("labelled:x.csv") and not is_known("labelled:") and not is_known("imdb")
