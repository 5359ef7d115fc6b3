"""Pieces of words, by hand; that they are those of transformers is in test_convert.py."""

from pathlib import Path

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
        ("$a-a", "$ a - a"),
        ("a" * 100 + " " + "a" * 101, "a " + "##a " * 99 + "[UNK]"),
        ("[SEP]", "[UNK] [UNK] [UNK]"),
        (" ", ""),
    ],
)
def test_text_is_cut_into_the_longest_known_pieces(text: str, expected: str) -> None:
    assert WordPiece(Vocabulary([*SPECIAL, *PIECES])).tokenize(text) == expected.split()


def test_a_cased_vocabulary_keeps_case_and_accents() -> None:
    tokenizer = WordPiece(Vocabulary([*SPECIAL, *PIECES]), lowercase=False)
    assert tokenizer.tokenize("Caf\u00e9 Want") == ["Caf\u00e9", "[UNK]"]


def test_files_say_what_the_pieces_are(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *PIECES]), encoding="utf-8")
    assert WordPiece.load(tmp_path).encode("unaffable a", length=6).tolist() == [2, 5, 6, 7, 15 + 6, 3]
    assert WordPiece.load(tmp_path).encode("unaffable a", length=4).tolist() == [2, 5, 6, 3]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert WordPiece.load(tmp_path).tokenize("Caf\u00e9") == ["Caf\u00e9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[PAD]\n\xff\n", r"vocab.txt is not UTF-8: byte 6 \(line 2\) is 0xff"), (b"", "vocab.txt is empty")]
    + [(b"[PAD]\n[UNK]\n[CLS]\na", r"a vocabulary of 4 pieces without \[SEP\]")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        WordPiece.load(tmp_path)
