"""What the doctor finds on machines that are not well."""

import importlib
import importlib.metadata
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
import torch

from dl.cli import doctor
from dl.cli.doctor import Finding
from dl.mytorch import precision
from dl.mytorch.data import sources
from dl.mytorch.data.images import sets


@pytest.fixture
def healthy_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))


def marks(findings: list[Finding]) -> list[str]:
    return [finding.mark for finding in findings]


def test_this_machine_is_ready(healthy_torchvision: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert out.endswith("\nready\n")
    for part in (
        "ok       Python 3.",
        "torch 2.",
        "torchvision fits",
        f", threads: {torch.get_num_threads()}",
        "checksums right",
        "GB free",
    ):
        assert part in out


def test_a_problem_is_counted_and_ends_with_status_1(
    healthy_torchvision: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "packages", lambda: iter([Finding("problem", "torch is gone")]))
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "problem  torch is gone\n" in out and out.endswith("\n1 problem\n")


def test_a_python_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert marks(list(doctor.python())) == ["ok"]
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert list(doctor.python()) == [Finding("problem", "Python 3.9.18 is older than 3.11, which this project needs")]


def test_versions_are_compared_with_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = "# pins\ntorch==2.13.0\nnumpy==2.4.6\ntqdm==4.70.1\nmissing-one==1.0\n-e .\n"
    (tmp_path / "requirements.txt").write_text(pins, encoding="utf-8")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    installed = {"torch": "2.13.0+cpu", "numpy": "2.4.7", "tqdm": "4.70.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert marks(list(doctor.packages())) == ["ok", "note", "ok", "problem"]
    installed["torch"] = "1.13.1"
    assert list(doctor.packages())[0].text.startswith("torch 1.13.1 is another major version than 2.13.0")
    assert marks(list(doctor.packages()))[0] == "problem"


def test_an_installation_from_elsewhere_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert marks(list(doctor.installation())) == ["note"]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [])
    assert "pip install -e ." in list(doctor.installation())[0].text


def test_the_torchvision_mismatch_is_explained_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatch(name: str) -> NoReturn:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", mismatch)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    (found,) = doctor.torchvision_build()
    assert found.mark == "note" and "works around it" in found.text
    assert found.text.endswith("torchvision --index-url https://download.pytorch.org/whl/cpu")


def test_torch_and_torchvision_for_two_versions_of_cuda_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatch(name: str) -> NoReturn:
        raise RuntimeError("compiled with different CUDA major versions")

    monkeypatch.setattr(importlib, "import_module", mismatch)
    (found,) = doctor.torchvision_build()
    assert found.mark == "problem" and "different CUDA" in found.text


def test_a_torchvision_that_is_missing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert marks(list(doctor.torchvision_build())) == ["problem"]


@pytest.mark.parametrize(("native", "takes"), [(True, "bf16"), (False, "fp32")])
def test_each_device_is_shown_with_what_auto_takes(native: bool, takes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda device: (native, f"as {device} does"))
    cpu, *_ = doctor.devices()
    assert cpu.text.endswith(f"; --precision auto takes {takes}: as cpu does")


def test_without_torch_the_report_goes_on(healthy_torchvision: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dl.mytorch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert marks(list(doctor.devices())) == ["problem"]
    assert marks(list(doctor.data_sets())) == ["problem"]


@pytest.mark.parametrize(("cuda", "reason"), [(None, "built for the CPU"), ("13.0", "CUDA 13.0, newer than the driver")])
def test_a_gpu_that_torch_cannot_use_is_noted_with_the_command_that_helps(
    cuda: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("torch.version.cuda", cuda)
    (note,) = [found.text for found in doctor.devices() if found.mark == "note"]
    assert reason in note and "pip install --force-reinstall torch torchvision --index-url" in note


def test_only_a_missing_bundled_set_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {name: source._replace(places=(tmp_path / name,)) for name, source in sets.SOURCES.items()}
    monkeypatch.setattr(sets, "SOURCES", sources)
    found = dict(zip(sources, doctor.data_sets()))
    assert found["fashion_mnist"].mark == "note" and "apt install" in found["fashion_mnist"].text
    assert found["cifar10"].mark == "note" and "training downloads it" in found["cifar10"].text
    assert found["fashion_mnist-sample"].mark == "problem"


def test_a_damaged_sample_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = sets.SOURCES["fashion_mnist-sample"]._replace(places=(tmp_path,))
    for file in sample.files:
        (tmp_path / file).write_bytes(b"not what was bundled")
    monkeypatch.setattr(sets, "SOURCES", {"fashion_mnist-sample": sample})
    (found,) = doctor.data_sets()
    assert found.mark == "problem" and "git checkout" in found.text


def test_text_is_found_and_only_a_missing_bundled_set_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["shakespeare", "shakespeare-sample", "wikitext2", "fra-eng", "fra-eng-sample", "multi30k"]
    found = dict(zip(names, doctor.text_sets()))
    assert found["shakespeare-sample"].mark == found["fra-eng-sample"].mark == "ok"
    monkeypatch.setattr(sources, "DATA", tmp_path)
    found = dict(zip(names, doctor.text_sets(), strict=True))
    assert {name for name in names if found[name].mark == "problem"} == {"shakespeare-sample", "fra-eng-sample"}
    assert all(found[name].text.startswith(f"{name} is not in {tmp_path}") for name in names)
    assert "training downloads it" in found["wikitext2"].text and "git checkout" in found["fra-eng-sample"].text


def test_little_room_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("."))(total=64_000_000, used=0, free=1_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = list(doctor.disk())
    assert set(marks(found)) == {"note"}
    assert "1 GB free" in found[0].text
    if Path("/dev/shm").exists():
        assert "--shm-size" in found[2].text
