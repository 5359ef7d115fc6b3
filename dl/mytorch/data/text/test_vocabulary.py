"""One vocabulary: the same ids in every split and every run, anything else is <unk>, another vocabulary is refused."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.mytorch.config import UserError
from dl.mytorch.data import Loader, Splits, Vocabulary
from dl.mytorch.data.text import vocabulary

TRAIN = "the cat saw the dog and the dog saw the bird".split()  # the 4, dog 2, saw 2, and bird cat 1


def test_the_most_frequent_come_first_equals_in_alphabetical_order() -> None:
    assert Vocabulary.build(TRAIN).tokens == ("<unk>", "the", "dog", "saw", "and", "bird", "cat")


def test_the_order_of_the_text_plays_no_part() -> None:
    shuffled = list(TRAIN)
    random.Random(1).shuffle(shuffled)
    assert shuffled != TRAIN and Vocabulary.build(shuffled) == Vocabulary.build(TRAIN)


def test_reserved_tokens_come_first_in_the_order_asked_for() -> None:
    reserved = ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>")
    vocabulary = Vocabulary.build(TRAIN, reserved)
    assert vocabulary.tokens[:6] == (*reserved, "the")
    assert [vocabulary[token] for token in reserved] == [0, 1, 2, 3, 4]


def test_a_reserved_token_in_the_text_is_the_same_token() -> None:
    vocabulary = Vocabulary.build([*TRAIN, "<unk>", "<unk>"])
    assert vocabulary.tokens.count("<unk>") == 1 and vocabulary["<unk>"] == vocabulary["unseen"] == 0


def test_rare_tokens_are_left_out_and_the_size_is_limited_with_the_reserved_ones() -> None:
    assert Vocabulary.build(TRAIN, min_count=2).tokens == ("<unk>", "the", "dog", "saw")
    assert Vocabulary.build(TRAIN, max_size=3).tokens == ("<unk>", "the", "dog")
    assert Vocabulary.build(TRAIN, min_count=5).tokens == ("<unk>",)


def test_a_token_unseen_in_training_is_unknown() -> None:
    vocabulary = Vocabulary.build(TRAIN)
    assert vocabulary.encode("the cow saw the dog".split()) == [1, 0, 3, 1, 2]
    assert vocabulary.decode([1, 0, 3]) == ["the", "<unk>", "saw"]
    assert "cow" not in vocabulary and "dog" in vocabulary and len(vocabulary) == 7
    assert Vocabulary(["<pad>", "<unk>", "a"]).encode(["b", "a"]) == [1, 2]


def test_without_unknown_an_unseen_token_is_refused() -> None:
    letters = Vocabulary.build("to be or not to be", reserved=())
    assert letters.decode(letters.encode("bent root")) == list("bent root")
    with pytest.raises(UserError, match="'z' is not in the vocabulary, which has no <unk> either"):
        letters.encode("zebra")


def test_decoding_undoes_encoding_of_tensors_too() -> None:
    vocabulary = Vocabulary.build(TRAIN)
    assert vocabulary.decode(torch.tensor(vocabulary.encode(TRAIN))) == TRAIN


@pytest.mark.parametrize("wrong", [7, -1])
def test_an_id_that_there_is_not_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"^{wrong} is no id of a vocabulary of 7 tokens"):
        Vocabulary.build(TRAIN).decode([1, wrong])


def test_impossible_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' is there twice"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(ValueError, match="no room for 2 reserved"):
        Vocabulary.build(TRAIN, ("<pad>", "<unk>"), max_size=1)
    with pytest.raises(UserError, match="of no text"):
        Vocabulary.build([])


def test_a_saved_vocabulary_is_the_same_whatever_its_tokens_hold(tmp_path: Path) -> None:
    odd = Vocabulary(["<unk>", "\n", " ", "", "caf\u00e9", "\u2028", '"', "\U0001f600", "null"])
    odd.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == odd
    assert [path.name for path in tmp_path.iterdir()] == ["v.json"]


def test_a_vocabulary_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.json"
    Vocabulary(["a"]).save(path)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="cannot write .*No space left"):
        Vocabulary(["b"]).save(path)
    monkeypatch.undo()
    assert Vocabulary.load(path).tokens == ("a",) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", ": its content has to be a list"),
        ('["a", 1]', r": \[1\] has to be text; got 1"),
        ('["a", "b", "a"]', ": a vocabulary holds each token once; 'a' is there twice"),
        ("[]", " holds no token"),
        ("[" * 100_000, " is damaged"),
        ('["a",', " is damaged"),
        ("", " is damaged"),
        (None, " does not exist"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "v.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"v.json{says}"):
        Vocabulary.load(tmp_path / "v.json")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (["<unk>", "b", "a"], "3 tokens there, 3 here; id 1 is 'a' there, 'b' here"),
        (["<unk>", "a", "b", "c"], "3 tokens there, 4 here; the ids agree so far"),
        (["<unk>", "a"], "3 tokens there, 2 here; the ids agree so far"),
    ],
)
def test_the_vocabulary_of_another_checkpoint_is_refused(other: list[str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    Vocabulary(["<unk>", "a", "b"]).keep(path)
    Vocabulary(["<unk>", "a", "b"]).keep(path)
    for refuse in (Vocabulary(other).keep, Vocabulary(other).check_same):
        with pytest.raises(UserError, match=re.escape(f"{path} is another vocabulary: {says}")):
            refuse(path)
    assert Vocabulary.load(path).tokens == ("<unk>", "a", "b")


def test_only_the_first_rank_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "is_main", lambda: False)
    Vocabulary(["a"]).keep(tmp_path / "v.json")
    assert not list(tmp_path.iterdir())


def test_equality_is_of_tokens_in_order() -> None:
    different: list[Any] = [Vocabulary(["b", "a"]), Vocabulary(["a"]), ("a", "b"), None]
    assert Vocabulary(["a", "b"]) == Vocabulary(iter("ab"))
    assert all(Vocabulary(["a", "b"]) != other for other in different)


def test_splits_are_three_loaders_and_what_a_run_records_of_them() -> None:
    data = Loader({"x": torch.arange(3)}, 2)
    splits = Splits(data, data, vocabularies={"x": Vocabulary("abc")}, names=("cat", "dog"))
    assert [*splits] == [data, data, None] and (splits.names, Splits(data, data).names) == (("cat", "dog"), ())
    assert splits.vocabularies["x"].tokens == ("a", "b", "c") and not Splits(data, data).vocabularies
