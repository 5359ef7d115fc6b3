"""Files are whole or not there; what is read is never trusted; a model is filled whole or not at all."""

import json
import os
import pickle
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from torch import nn

from dl.mytorch import checkpoint, gathering, testing
from dl.mytorch.checkpoint import load, load_weights, put_weights, save
from dl.mytorch.config import UserError
from dl.mytorch.files import write_json
from dl.mytorch.layers import sequential
from dl.mytorch.testing.pickles import Malicious


def small_model(hidden: int = 3) -> nn.Module:
    return sequential(fc1=nn.Linear(2, hidden), norm=nn.BatchNorm1d(hidden), fc2=nn.Linear(hidden, 2))


STATE = {"weights": {"a": torch.arange(5.0), "b": torch.ones(2, 2).bfloat16()}, "position": (3, 1), "best": 0.25, "none": None}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(STATE, tmp_path / "state.pt")
    testing.assert_same_state(load(tmp_path / "state.pt"), STATE, "state")
    assert sorted(os.listdir(tmp_path)) == ["checksums.json", "state.pt"]


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = small_model()
    save(model.state_dict(), tmp_path / "first.pt")
    save(load(tmp_path / "first.pt"), tmp_path / "again.pt")  # other objects, other addresses, another file name
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "again.pt").read_bytes()
    model.fc1.bias.data[0] += 1e-6
    save(model.state_dict(), tmp_path / "other.pt")
    assert (tmp_path / "first.pt").read_bytes() != (tmp_path / "other.pt").read_bytes()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_save_that_fails_half_way_keeps_the_old_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    save(STATE, path)
    before = path.read_bytes()

    def write_half(state: Any, file: Any) -> None:
        file.write(before[: len(before) // 2])
        file.flush()
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", write_half)
    with pytest.raises(UserError, match=r"state.pt: .*MB free.*the copy from before is kept"):
        save(STATE, path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["checksums.json", "state.pt"]


def test_a_place_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "nowhere" / "state.pt", tmp_path / "file" / "state.pt"):
        with pytest.raises(UserError, match="cannot write .*state.pt"):
            save(STATE, path)


@pytest.mark.parametrize("said, shown", [("no such storage\nand a stack", "no such storage"), ("", "it ends too early")])
def test_the_reason_of_a_damage_is_torch_s_first_line_or_ours(
    said: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(said)

    save(STATE, tmp_path / "state.pt")
    monkeypatch.setattr(checkpoint.torch, "load", refuse)
    with pytest.raises(UserError, match=rf"state.pt is damaged or not a checkpoint \({shown}\)$"):
        load(tmp_path / "state.pt")


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "gift.pt", tmp_path / "executed"
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        write({"fc1.weight": Malicious(mark)}, path)
        with pytest.raises(UserError, match=r"gift.pt refused: .*could run code"):
            load(path)
        with pytest.raises(UserError, match="refused"):
            load_weights(small_model(), path)
        assert not mark.exists()
    pickle.loads(path.read_bytes())  # it is what it says
    assert mark.exists()


def test_a_missing_file_is_a_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing.pt does not exist"):
        load(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"PK", b"Dear reader, this is a text.\n", b'{"epoch": 3}\n', b"\0" * 64, pickle.dumps([1, 2], protocol=2)],
    ids=["empty", "one letter", "two letters", "text", "json", "zeros", "pickle"],
)
def test_what_is_no_checkpoint_is_a_line_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bad.pt is damaged or not a checkpoint") as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_cut_off_anywhere_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    save(small_model().state_dict(), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.pt is damaged"):
            load(path)


@pytest.mark.parametrize("error", [TypeError, AttributeError, AssertionError, struct.error, EOFError, RuntimeError])
def test_whatever_torch_raises_over_damaged_bytes_is_a_line(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:  # each was seen on a checkpoint with one altered byte
        raise error("first line\nsecond line") if error is not EOFError else EOFError

    monkeypatch.setattr(checkpoint.torch, "load", fail)
    with pytest.raises(UserError, match="state.pt is damaged") as refused:
        load(tmp_path / "state.pt")
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_with_altered_bytes_is_read_or_a_line(tmp_path: Path) -> None:
    path = tmp_path / "altered.pt"
    save({"a": torch.arange(3.0), "b": [1, "x"]}, path)
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        altered = bytearray(whole)
        altered[rng.randrange(len(altered))] ^= rng.randrange(1, 256)
        path.write_bytes(altered)
        try:
            load(path)
        except UserError as error:
            assert "altered.pt" in str(error)


def test_safetensors_are_read_and_damaged_ones_are_a_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [4, 8]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    words = json.dumps(header).encode()
    content = struct.pack("<Q", len(words)) + words + struct.pack("<f", 1.5) + b"\x80\x3f\x00\xc0"
    path.write_bytes(content)
    expected = {"a": torch.tensor(1.5), "b": torch.tensor([[1.0], [-2.0]], dtype=torch.bfloat16)}
    testing.assert_same_state(load(path), expected, "tensors")
    for damaged in (content[:-1], content[:20], b"", content.replace(b"BF16", b"F999")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="model.safetensors is damaged or not a checkpoint"):
            load(path)
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        load(path)


def test_weights_are_put_into_a_model_which_is_returned(tmp_path: Path) -> None:
    source, model = small_model(), small_model()
    source.norm.running_mean += 1
    save(source.state_dict(), tmp_path / "best.pt")
    assert load_weights(model, tmp_path / "best.pt") is model
    testing.assert_same_state(model.state_dict(), source.state_dict(), "weights")


def lacking() -> dict[str, Any]:
    return {name: tensor for name, tensor in small_model().state_dict().items() if name != "fc2.bias"}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (lacking(), "lacks fc2.bias"),
        (small_model().state_dict() | {"fc3.bias": torch.zeros(2)}, "has fc3.bias, which the model lacks"),
        (small_model(hidden=4).state_dict(), r"has fc1.weight of shape \(4, 2\), the model's is \(3, 2\)"),
        ({"_orig_mod." + name: tensor for name, tensor in small_model().state_dict().items()}, "and 15 more"),
        (small_model().state_dict() | {"fc1.bias": 3}, "fc1.bias"),
        ({}, "lacks fc1.weight"),
        ([1, 2], "does not hold the weights"),
        (torch.zeros(3), "does not hold the weights"),
    ],
    ids=["missing", "extra", "shape", "prefix", "number", "nothing", "list", "tensor"],
)
def test_weights_of_another_model_are_refused_and_change_nothing(weights: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    torch.save(weights, path)
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for put in (lambda: load_weights(model, path), lambda: put_weights(model, weights, path)):
        with pytest.raises(UserError, match=says) as refused:
            put()
        assert "best.pt" in str(refused.value)
        testing.assert_same_state(model.state_dict(), before, "weights")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a tiny disk")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("this machine does not let us mount a tiny disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_checkpoint_and_leaves_no_rest(tiny_disk: Path) -> None:
    path = tiny_disk / "last.pt"
    save({"x": torch.ones(100_000)}, path)  # 0.4 MB
    with pytest.raises(UserError, match=r"cannot write .*last.pt: .*the copy from before is kept"):
        save({"x": torch.zeros(1_000_000)}, path)
    assert sorted(os.listdir(tiny_disk)) == ["checksums.json", "last.pt"]
    assert torch.equal(load(path)["x"], torch.ones(100_000))
    with pytest.raises(UserError, match="history.json"):
        write_json("x" * 2_000_000, tiny_disk / "history.json")
    assert sorted(os.listdir(tiny_disk)) == ["checksums.json", "last.pt"]


@pytest.mark.parametrize("rows", [5, 6])
@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2])
def test_rows_of_a_batch_are_kept_whole_whatever_number_of_ranks(
    rows: int, before: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {"a": torch.arange(rows * 2).view(rows, 2), "b": torch.arange(rows)}
    parts = [{name: x[i::before] for name, x in batch.items()} for i in range(before)]
    monkeypatch.setattr(gathering, "gather_parts", lambda own: parts)
    kept = gathering.gather_rows(parts[0])
    monkeypatch.setattr(gathering, "data_world_size", lambda: after)
    for i in range(after):
        monkeypatch.setattr(gathering, "data_rank", lambda i=i: i)
        testing.assert_same_state(gathering.own_rows(kept), {name: x[i::after] for name, x in batch.items()}, "rows")
