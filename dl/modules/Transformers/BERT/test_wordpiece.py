"""Pieces of words, by hand; that they are those of transformers is in test_convert.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from dl.modules.Transformers.BERT.wordpiece import WordPiece
from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary

SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]".split()
PIECES = "un ##aff ##able ##a want ##want ##ed runn ##ing cafe Caf\u00e9 \u4e2d \u6587 , $ - a ##b".split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UNwant\u00c9d,running", "un ##want ##ed , runn ##ing"),  # the example of the paper's code
        ("unaffable", "un ##aff ##able"),  # the longest piece, not "##a"
        ("unaffx wanted", "[UNK] want ##ed"),  # a word is known whole or not at all
        ("caf\u00e9 cafe\u0301", "cafe cafe"),  # accents, in one character or two
        ("\u4e2d\u6587a", "\u4e2d \u6587 a"),
        ("a\x00\u200bb\ta\u3000a\r\na\u2028\ufffd", "a ##b a a a"),  # invisible ones vanish, spaces of all kinds part
        ("a\ue000b a\ufdd0b", "a ##b [UNK]"),  # for private use; not assigned, as the newest ones of all are
        ("$a-a", "$ a - a"),
        ("a" * 100 + " " + "a" * 101, "a " + "##a " * 99 + "[UNK]"),
        ("[SEP]", "[UNK] [UNK] [UNK]"),
        (" ", ""),
    ],
)
def test_text_is_cut_into_the_longest_known_pieces(text: str, expected: str) -> None:
    assert WordPiece(Vocabulary([*SPECIAL, *PIECES])).tokenize(text) == expected.split()


def test_words_that_are_too_long_are_not_kept() -> None:
    tokenizer = WordPiece(Vocabulary([*SPECIAL, *PIECES]))
    assert tokenizer.tokenize("a" * 101 + " a") == ["[UNK]", "a"] and tokenizer.pieces.cache_info().currsize == 1


def test_a_cased_vocabulary_keeps_case_and_accents() -> None:
    tokenizer = WordPiece(Vocabulary([*SPECIAL, *PIECES]), lowercase=False)
    assert tokenizer.tokenize("Caf\u00e9 Want") == ["Caf\u00e9", "[UNK]"]


def test_files_say_what_the_pieces_are(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *PIECES]), encoding="utf-8")
    assert WordPiece.load(tmp_path).encode("unaffable a", length=6).tolist() == [2, 5, 6, 7, 15 + 6, 3]
    assert WordPiece.load(tmp_path).encode("unaffable a", length=4).tolist() == [2, 5, 6, 3]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert WordPiece.load(tmp_path).tokenize("Caf\u00e9") == ["Caf\u00e9"]


def test_a_folder_of_transformers_5_has_its_pieces_in_tokenizer_json(tmp_path: Path) -> None:
    ids = {piece: i for i, piece in enumerate([*SPECIAL, *PIECES])}

    def write(**changes: Any) -> None:
        model = {"type": "WordPiece", "vocab": dict(sorted(ids.items()))}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {**model, **changes}}), encoding="utf-8")

    write()
    assert WordPiece.load(tmp_path).vocabulary.tokens == (*SPECIAL, *PIECES)
    for changes in ({"type": "Unigram", "vocab": []}, {"vocab": {**ids, "more": 99}}):
        write(**changes)
        with pytest.raises(UserError, match="tokenizer.json holds no pieces of words"):
            WordPiece.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="vocab.txt does not exist"):
        WordPiece.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"do_lower_case": True, "strip_accents": None}, "cafe \u4e2d \u6587"),
        ({"do_lower_case": True, "strip_accents": False}, "[UNK] \u4e2d \u6587"),  # caf\u00e9
        ({"do_lower_case": False, "strip_accents": True}, "Cafe \u4e2d \u6587"),
        ({"tokenize_chinese_chars": False}, "cafe [UNK]"),
    ],
)
def test_settings_of_case_accents_and_ideographs(tmp_path: Path, options: dict[str, bool | None], expected: str) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *PIECES, "Cafe"]), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options), encoding="utf-8")
    assert WordPiece.load(tmp_path).tokenize("Caf\u00e9 \u4e2d\u6587") == expected.split()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[PAD]\n\xff\n", r"vocab.txt is not UTF-8: byte 6 \(line 2\) is 0xff"), (b"", "vocab.txt is empty")]
    + [(b"[PAD]\n[UNK]\n[CLS]\na", r"a vocabulary of 4 pieces without \[SEP\]")]
    + [(b"a\nb\na", "vocab.txt: a vocabulary holds each token once; 'a' is there twice")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        WordPiece.load(tmp_path)
