"""The bundled plays, and where nanoGPT cuts the text."""

from pathlib import Path

import pytest
import torch

from dl.mytorch import TrainConfig
from dl.mytorch.config import UserError
from dl.mytorch.data import shakespeare, sources
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.data.text.shakespeare import load


def config(data: str) -> TrainConfig:
    return TrainConfig(out="unused", data=data, batch_size=8)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """40 characters in the place of the real ones: 36 to train on, 4 to validate."""
    text = "to be, or not to be: that\nis the question"[:40]
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sources, "DATA", tmp_path)
    return text


def test_the_bundled_sample_is_a_megabyte_of_plays() -> None:
    text = load("shakespeare-sample")
    assert len(text) == 1_016_368 and len(set(text)) == 63 and text.isascii()
    assert text.startswith("BERNARDO:\nWho's there?\n\nFRANCISCO:\nNay, answer me")
    assert "To be, or not to be: that is the question" in text


def test_lines_may_end_as_on_windows(short: str, tmp_path: Path) -> None:
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(short.replace("\n", "\r\n").encode())
    assert load("shakespeare") == short


def test_the_last_tenth_validates_and_nothing_is_tested(short: str) -> None:
    data = shakespeare(config("shakespeare"), length=4)
    vocabulary = data.vocabularies["tokens"]
    train = data.train.dataset["tokens"]
    seen = torch.cat([train[:, 0], train[-1, 1:]])
    assert "".join(vocabulary.decode(seen)) == short[:35]  # the last is only a target
    targets = data.val.dataset["targets"]
    assert "".join(vocabulary.decode(targets[targets != IGNORED])) == short[37:]
    assert data.test is None


def test_the_vocabulary_is_of_the_training_part(short: str, tmp_path: Path) -> None:
    vocabulary = shakespeare(config("shakespeare"), length=4).vocabularies["tokens"]
    assert sorted(vocabulary.tokens) == sorted(set(short[:36]))
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(short[:-1] + "X", encoding="utf-8")
    with pytest.raises(UserError, match="'X' is not in the vocabulary"):
        shakespeare(config("shakespeare"), length=4)


def test_training_chunks_are_shuffled_by_the_seed_and_validation_is_in_order(short: str) -> None:
    data = shakespeare(config("shakespeare"), length=4)
    first, again = (next(data.train.batches(epoch))["tokens"] for epoch in (0, 1))
    assert not torch.equal(first, again)
    assert torch.equal(next(data.train.batches(0))["tokens"], first)
    assert torch.equal(torch.cat([b["tokens"] for b in data.val.batches()]), data.val.dataset["tokens"])


def test_chunks_have_256_characters_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text("to be or " * 400, encoding="utf-8")
    monkeypatch.setattr(sources, "DATA", tmp_path)
    train, val, _ = shakespeare(config("shakespeare"))
    assert [len(loader.dataset["tokens"][0]) for loader in (train, val)] == [256, 256]


def test_another_name_is_refused() -> None:
    with pytest.raises(UserError, match="--data bacon: .* there are shakespeare, shakespeare-sample"):
        shakespeare(config("bacon"))
