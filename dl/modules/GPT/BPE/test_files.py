"""Files of a BPE: read as they were written, by each of the three ways to publish; altered ones are refused in a line."""

import json
import math
from pathlib import Path

import pytest

from dl.modules.GPT.BPE import tokenizer
from dl.modules.GPT.BPE.testing import MIXED, TEXT
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.mytorch.config import UserError


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE.train("".join(MIXED) + TEXT, 330)


def test_files_are_read_again(bpe: BPE, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    assert BPE.load(tmp_path) == bpe and (tmp_path / "merges.txt").read_text(encoding="utf-8").startswith("#version")
    kept = tmp_path / "vocabulary-tokens.json"
    for _ in range(2):
        bpe.keep(kept)
    assert BPE.read(kept) == bpe
    with pytest.raises(UserError, match="is another vocabulary than this one of 260 tokens"):
        BPE.train(TEXT, 260).keep(kept)
    kept.write_bytes(kept.read_bytes().replace(b"64", b"65", 1))
    with pytest.raises(UserError, match="vocabulary-tokens.json was changed since it was written"):
        BPE.read(kept)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("merges.txt", "t h\n", "", "do not fit"),
        ("merges.txt", "th e\n", "", "special tokens are written as"),  # the last one is missing
        ("merges.txt", "th e\n", "t e\n", "by merges.txt token 260 is 'te', by vocab.json 'the'"),
        ("merges.txt", "t h\n", "t \u00ff\u00ff\n", "do not fit"),
        ("merges.txt", "t h\n", "t\n", "do not fit"),
        ("vocab.json", '"th"', '"ht"', "do not fit"),
        ("vocab.json", ": 5,", ": 5.0,", "has to be a whole number"),
        ("vocab.json", ',\n "the": 260,\n "<|endoftext|>": 261', "", "by merges.txt token 260 is 'the', by vocab.json None"),
        ("vocab.json", '"a"', '"', "is damaged"),
        ("vocab.json", "{", "[", "is damaged"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    BPE.train("the then that", 262).save(tmp_path)
    path = tmp_path / file
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        BPE.load(tmp_path)


def test_the_one_file_of_transformers_5(bpe: BPE, tmp_path: Path) -> None:
    """Its merges are strings or pairs."""
    bpe.save(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink()
    for written in (merges, [merge.split(" ") for merge in merges]):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids, "merges": written}}), encoding="utf-8")
        assert BPE.load(tmp_path) == bpe
    unfit = "its merges and tokenizer.json do not fit"
    for changes, message in (({}, "lacks the field model.merges"), ({"merges": merges[1:]}, unfit)):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids, **changes}}), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            BPE.load(tmp_path)


def test_lines_may_end_as_on_windows(bpe: BPE, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    for name in ("merges.txt", "vocab.json"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert BPE.load(tmp_path) == bpe


def test_merges_that_double_are_refused_before_they_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty tokens, of which each is the one before twice, in a file of 757 bytes: the last would have 10^15 bytes."""
    assert tokenizer.MOST_BYTES <= 2**26
    monkeypatch.setattr(tokenizer, "MOST_BYTES", 2**16)
    merges = [[0, 0], *([i, i] for i in range(256, 305))]
    (tmp_path / "kept.json").write_text(json.dumps({"merges": merges, "special": []}), encoding="utf-8")
    with pytest.raises(UserError, match="kept.json is damaged .* up to merge 15 have more than 65,536 bytes"):
        BPE.read(tmp_path / "kept.json")
    shown = [chr(0x4E00 + i) for i in range(300)]  # a vocabulary that does not say what its merges make
    BPE([]).save(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    ids = {**{token: i for token, i in ids.items() if i < 256}, **{token: 256 + i for i, token in enumerate(shown)}}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", "! !", *(f"{token} {token}" for token in shown[:49])]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="have more than 65,536 bytes"):
        BPE.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has to be an object"),
        ({"special": []}, "lacks the field merges"),
        ({"merges": [[0, 1.5]], "special": []}, r"merges\[0\]\[1\] has to be a whole number; got 1.5"),
        ({"merges": [[0, 10**30]], "special": []}, "has to be a whole number"),
        ({"merges": [[0, True]], "special": []}, "has to be a whole number"),
        ({"merges": [[0]], "special": []}, "is damaged"),
        ({"merges": [[0, 999]], "special": []}, "is damaged"),
        ({"merges": {}, "special": []}, "merges has to be a list"),
        ({"merges": [], "special": [1]}, r"special\[0\] has to be text; got 1"),
        ({"merges": [], "special": ["a"]}, "is damaged"),
        ({"merges": math.nan, "special": []}, "is damaged"),
    ],
    ids=str,
)
def test_altered_vocabularies_of_a_run_are_refused_in_a_line(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "kept.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=f"kept.json.*{message}"):
        BPE.read(tmp_path / "kept.json")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab.json does not exist"):
        BPE.load(tmp_path)
    (tmp_path / "kept.json").write_text('{"merges": [[1, 2, 3]], "special": []}', encoding="utf-8")
    with pytest.raises(UserError, match="kept.json is damaged"):
        BPE.read(tmp_path / "kept.json")
