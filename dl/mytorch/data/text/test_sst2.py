"""Sentences of SST-2: files, splits, batches."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dl.mytorch import TrainConfig, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary, sources
from dl.mytorch.data.text.sst2 import Review, read, review_splits, sst2


class Words:
    """Words between blanks."""

    vocabulary = Vocabulary(["<pad>", "<unk>", "good", "bad", "film"])
    padding = 0

    def encode(self, text: str, length: int) -> Tensor:
        return torch.tensor(self.vocabulary.encode(text.split()[:length]))


def config(data: str = "sst2") -> TrainConfig:
    return TrainConfig(out="x", data=data, batch_size=2)


def test_sentences_of_about_one_length_become_batches_the_longest_first() -> None:
    made = [Review("good", 1), Review("film film", 1), Review("bad film bad film good", 0)]
    loader = review_splits(config(), (made, made, made), Words(), length=4).val
    batches = [([Words.vocabulary.decode(row) for row in b["tokens"]], b["labels"].tolist()) for b in loader.batches()]
    long = ["bad film bad film".split(), "film film <pad> <pad>".split()]
    assert batches == [(long, [0, 1]), ([["good"]], [1])]


def write(folder: Path, train: str = "", dev: str = "sentence\tlabel\nbad .\t0\n") -> None:
    folder.mkdir(exist_ok=True)
    lines = "".join(f"good film {'s ' * i}.\t{i % 2}\n" for i in range(20))
    (folder / "train.tsv").write_text(train or "sentence\tlabel\n" + lines, encoding="utf-8")
    (folder / "dev.tsv").write_text(dev, encoding="utf-8")


def test_a_tenth_of_the_training_file_validates_whatever_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DATA", tmp_path)
    write(tmp_path / "sst2")
    first = sst2(config(), Words(), length=40)
    head, *lines = (tmp_path / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()
    write(tmp_path / "sst2", "\n".join([head, *lines[::-1]]) + "\n")
    second = sst2(config(), Words(), length=40)
    assert [loader.num_examples for loader in first] == [18, 2, 1]
    for one, other in zip(first, second):
        testing.assert_same_state(list(one.batches()), list(other.batches()), "batches")
    with pytest.raises(UserError, match="--data imdb"):
        sst2(config("imdb"), Words())


def test_one_sentence_is_refused_and_two_are_parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DATA", tmp_path)
    write(tmp_path / "sst2", "sentence\tlabel\ngood\t1\n")
    with pytest.raises(UserError, match="train.tsv holds one sentence; one to learn from and one to validate"):
        sst2(config(), Words())
    write(tmp_path / "sst2", "sentence\tlabel\ngood\t1\nbad\t0\n")
    assert [loader.num_examples for loader in sst2(config(), Words())] == [1, 1, 1]


def test_a_set_that_is_not_there_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DATA", tmp_path)
    with pytest.raises(UserError, match=r"sst2/train.tsv does not exist. What helps: unpack .*SST-2.zip .*load_dataset"):
        sst2(config(), Words())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"sentence\tlabel\n", "holds no sentence"),
        (b"index\tsentence\n0\tgood\n", "begins with 'index"),
        (b"sentence\tlabel\ngood\t1\nbad\n", "line 3: 'bad' is no sentence, tab, and 0 or 1"),
        (b"sentence\tlabel\ngood\t2\n", "line 2"),
        (b"sentence\tlabel\n \t1\n", "line 2"),
        (b"sentence\tlabel\ngood \xe9\t1\n", "is not UTF-8: byte 20"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)
