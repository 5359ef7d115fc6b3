"""The tokenizer of llama2.c on a made-up file; the published story, word for word, where its weights are (parity tier)."""

import os
import struct
from pathlib import Path

import pytest

from dl.modules.GPT.Llama import stories
from dl.modules.GPT.Llama.model import build

WEIGHTS = Path(__file__).parents[4] / "data" / "stories260K"
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, "
    "red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\""
)


def pieces(folder: Path, *joined: tuple[str, float]) -> stories.Pieces:
    """All bytes, the letters a to d and a space, and `joined` with their scores."""
    parts = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0), *((b"<0x%02X>" % byte, 0.0) for byte in range(256))]
    parts += [(letter.encode(), -99.0) for letter in " abcd"] + [(text.encode(), score) for text, score in joined]
    content = b"".join(struct.pack("<fi", score, len(part)) + part for part, score in parts)
    (folder / "pieces.bin").write_bytes(struct.pack("<i", 9) + content)
    return stories.Pieces(folder / "pieces.bin")


def test_neighbours_of_the_best_score_are_joined_first(tmp_path: Path) -> None:
    own = pieces(tmp_path, ("ab", -2.0), ("bc", -1.0), ("abc", -3.0), ("cd", -1.0))
    begin, *ids = own.encode("abcdab")
    assert begin == stories.BEGIN
    assert [own.pieces[i].decode() for i in ids] == [" ", "abc", "d", "ab"]
    assert own.encode("") == [begin]


def test_decoding_is_the_inverse_of_encoding(tmp_path: Path) -> None:
    own = pieces(tmp_path, (" a", -1.0), ("ab", -2.0))
    for text in ("ab", "a b  c\n", "d\u00e9j\u00e0 \U0001f600"):
        ids = own.encode(text)
        assert b"".join(map(own.decode, ids[1:], ids)).decode() == text


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pieces(tmp_path)
    path = tmp_path / "pieces.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="pieces.bin is cut off"):
        stories.Pieces(path)
    assert stories.main([str(tmp_path / "none.bin"), str(path)]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with a name")
def test_pipes_and_folders_in_place_of_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("pipe", "a device or pipe"), ("", "a folder")):
        assert stories.main([str(tmp_path / name), str(tmp_path / "none.bin")]) == 1
        assert f"is {kind}, not a file" in capsys.readouterr().err
        with pytest.raises(ValueError, match=f"is {kind}, not a file"):
            stories.Pieces(tmp_path / name)


def test_the_pieces_of_another_network_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces(tmp_path)
    monkeypatch.setattr(stories, "from_llama2c", lambda path: build("tiny"))
    assert stories.main([str(tmp_path / "tiny.bin"), str(tmp_path / "pieces.bin")]) == 1
    assert "pieces.bin has 264 pieces, " in (said := capsys.readouterr().err) and "tiny.bin is for 11" in said
    assert stories.main([str(tmp_path / "tiny.bin"), str(tmp_path / "pieces.bin"), "--seed", "-1"]) == 1
    assert "--seed has to be from 0 to 4,294,967,295; got -1" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS} is not there: stories260K of huggingface.co/karpathy/tinyllamas")
def test_the_published_weights_tell_the_published_story(capfdbinary: pytest.CaptureFixture) -> None:
    assert stories.main([str(WEIGHTS / "stories260K.bin"), str(WEIGHTS / "tok512.bin"), "--tokens", "100"]) == 0
    assert capfdbinary.readouterr().out.decode().startswith(STORY)
