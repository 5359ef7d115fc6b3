"""Text files become token files: the same tokens, however the text is cut into parts."""

from pathlib import Path

import pytest

from dl.modules.GPT.BPE import prepare as module
from dl.modules.GPT.BPE.prepare import main, parts
from dl.modules.GPT.BPE.testing import MIXED, TEXT
from dl.modules.GPT.BPE.tokenizer import BPE, END_OF_TEXT
from dl.mytorch.data.text.tokens import map_tokens

LINES = "One  line.\nAnother \t\n\n  third\r\n\r\nx\r\n" * 9 + "\n".join(MIXED)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_cuts_change_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(module, "PART", size)
    bpe = BPE.train(LINES, 400)
    for text in (LINES, LINES.replace("\n", " ")):  # one line may be larger than memory, too
        (tmp_path / "text").write_bytes(text.encode())
        cut = list(parts(tmp_path / "text"))
        assert len(cut) > 9 and "".join(cut) == text
        assert [i for part in cut for i in bpe.encode(part)] == bpe.encode(text)


def test_documents_are_packed_with_an_end_after_each(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, text in (("a", TEXT), ("b", LINES), ("empty", "")):
        (tmp_path / name).write_bytes(text.encode())
    files = [str(tmp_path / name) for name in ("a", "b", "empty")]
    assert main([str(tmp_path / "out"), *files, "--vocab-size", "300"]) == 0
    bpe, ids = BPE.load(tmp_path / "out"), map_tokens(tmp_path / "out" / "tokens.bin")
    assert len(bpe) == 300 and f"{len(ids):,} tokens of 300 kinds" in capsys.readouterr().out
    assert bpe.decode(ids) == f"{TEXT}{END_OF_TEXT}{LINES}{END_OF_TEXT}{END_OF_TEXT}"
    assert main([str(tmp_path / "more"), files[1], "--bpe", str(tmp_path / "out")]) == 0
    assert BPE.load(tmp_path / "more") == bpe
    assert main([str(tmp_path / "out"), files[1]]) == 1  # a training may have it mapped
    assert "out holds tokens already" in capsys.readouterr().err
    assert map_tokens(tmp_path / "out" / "tokens.bin").tolist() == ids.tolist()


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    assert "".join(parts(tmp_path / "text")) == LINES


def test_what_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    BPE.train(TEXT, 300, special=()).save(tmp_path / "pieces")
    says = {"none": "none does not exist", "latin": "can't decode byte 0xe9", "folder": "is a folder", "empty": "empty text"}
    for name, message in says.items():
        assert main([str(tmp_path / "out"), str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    assert main([str(tmp_path / "out"), "--bpe", str(tmp_path / "pieces"), str(tmp_path / "text")]) == 1
    assert "the vocabulary has no <|endoftext|>" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
