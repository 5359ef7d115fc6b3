"""What `pytest --proof` keeps of comparisons with twins."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dl.mytorch.config import UserError
from dl.mytorch.testing import assert_same_as, proofs
from dl.mytorch.testing.proofs import FILE, Recorder
from dl.mytorch.testing.training import Scaled


def folder_of_a_model(root: Path) -> Path:
    (root / "Net").mkdir()
    (root / "Net/model.py").write_text("model\n", encoding="utf-8")
    return root / "Net"


def call(recorder: Recorder, folder: Path, name: str, change: float, parity: bool = False) -> None:
    """Run a test that compares with a twin whose output is `change` larger."""
    item = SimpleNamespace(
        path=folder / "test_model.py", name=f"{name}[x]", originalname=name, get_closest_marker=lambda _: parity or None
    )
    steps = recorder.pytest_runtest_call(item)
    next(steps)
    torch.manual_seed(0)
    twin = Scaled(lambda result, scale: result * scale + change)
    try:
        assert_same_as(Scaled(), twin, torch.randn(5, 4))
    except AssertionError as error:
        with pytest.raises(AssertionError):
            steps.throw(error)
        recorder._note(SimpleNamespace(nodeid=f"Net/test_model.py::{name}", failed=True, skipped=False))
    else:
        with pytest.raises(StopIteration):
            next(steps)


def finish(recorder: Recorder) -> str:
    lines: list[str] = []
    recorder.pytest_terminal_summary(SimpleNamespace(write_line=lines.append))
    return "\n".join(lines)


def test_the_largest_difference_of_each_kind_is_kept_over_a_test_s_cases(tmp_path: Path) -> None:
    folder, recorder = folder_of_a_model(tmp_path), Recorder(tmp_path)
    for change in (0.0, 3e-10, 1e-10):
        call(recorder, folder, "test_twin", change, parity=True)
    recorder._note(SimpleNamespace(nodeid="Net/test_other.py::test_gpu[a]", failed=False, skipped=True))
    assert finish(recorder).replace("\\", "/") == "Net/proof.json: 1 tests"
    proof = proofs.read(folder)
    assert proof is not None and proof["tests"].keys() == {"test_model.py::test_twin"}
    found = proof["tests"]["test_model.py::test_twin"]
    assert found["outputs"] == pytest.approx(3e-10, rel=0.1) and found["tolerance"] == 1e-9
    assert found["gradients"] == found["weights"] == 0 and found["cases"] == 3 and found["parity"] is True
    assert proof["skipped"] == ["test_other.py::test_gpu"] and not proof["stale"]
    assert proof["versions"]["torch"] == torch.__version__


def test_tests_without_a_twin_are_recorded_as_none(tmp_path: Path) -> None:
    folder, recorder = folder_of_a_model(tmp_path), Recorder(tmp_path)
    law = SimpleNamespace(path=folder / "test_model.py", name="test_law", get_closest_marker=lambda _: None)
    steps = recorder.pytest_runtest_call(law)
    next(steps)
    torch.testing.assert_close(torch.ones(1), torch.ones(1), rtol=0, atol=1e-9)
    with pytest.raises(StopIteration):
        next(steps)
    assert finish(recorder).endswith("0 tests") and (proofs.read(folder) or {})["tests"] == {}


def test_what_a_parity_test_finds_close_is_measured() -> None:
    one, before = torch.ones(2, dtype=torch.float64), torch.testing.assert_close
    proofs.twins.LARGEST.clear()
    with proofs.measured():
        torch.testing.assert_close({"a": [one, one + 2e-10]}, {"a": [one, one]}, rtol=0, atol=1e-9)
        torch.testing.assert_close(one + 1, one + 1.00000001)  # a relative tolerance is none of a proof
        torch.testing.assert_close(one, one + 1e-5, rtol=0, atol=1e-4)  # nor is a wide one
        torch.testing.assert_close(one[:0], one[:0], rtol=0, atol=1e-12)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(one, one + 1, rtol=0, atol=1e-9)
    assert proofs.twins.LARGEST == {"values": pytest.approx(2e-10, rel=1e-5), "tolerance": 1e-9}
    assert torch.testing.assert_close is before


def test_a_failure_leaves_the_earlier_proof(tmp_path: Path) -> None:
    folder = folder_of_a_model(tmp_path)
    assert proofs.read(folder) is None
    for change in (0.0, 1e-6):
        recorder = Recorder(tmp_path)
        call(recorder, folder, "test_twin", 0.0)
        call(recorder, folder, "test_other", change)
        said = finish(recorder)
    assert said.endswith("not written, a test failed")
    assert (proofs.read(folder) or {})["tests"].keys() == {"test_model.py::test_twin", "test_model.py::test_other"}


def test_another_model_py_makes_a_proof_stale_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder, recorder = folder_of_a_model(tmp_path), Recorder(tmp_path)
    call(recorder, folder, "test_twin", 0.0)
    finish(recorder)
    (folder / "model.py").write_bytes(b"model\r\n")
    assert (proofs.read(folder) or {})["stale"] is False  # as git writes it on Windows
    (folder / "model.py").write_bytes(b"another model\n")
    assert (proofs.read(folder) or {})["stale"] is True
    damaged = json.loads((folder / FILE).read_text(encoding="utf-8")) | {"tests": {"a": {}}}
    (folder / FILE).write_text(json.dumps(damaged), encoding="utf-8")
    with pytest.raises(UserError, match="proof.json lacks the field tests.a"):
        proofs.read(folder)
