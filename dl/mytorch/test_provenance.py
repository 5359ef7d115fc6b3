"""What is said of a command, of the code, of packages and of the processor."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dl.mytorch import provenance


def test_a_command_is_quoted_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        name = "dl.modules.CNN.LeNet.train"

    monkeypatch.setattr(sys, "argv", ["train.py", "--out", "my runs/1", "--data=folder:~/$x"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", Spec)
    assert provenance.command() == "python -m dl.modules.CNN.LeNet.train --out 'my runs/1' '--data=folder:~/$x'"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert provenance.command() == "python train.py --out 'my runs/1' '--data=folder:~/$x'"


def test_a_modified_tree_has_a_plus_after_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, commit in (("", "abc"), (" M train.py\n", "abc+")):
        answers = iter(["abc\n", changes])
        monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 0, next(answers)))
        assert provenance.commit(Path(commit)) == commit
    monkeypatch.setattr(subprocess, "run", lambda words, **_: (_ for _ in ()).throw(FileNotFoundError))
    assert provenance.commit(Path("anywhere")) == ""


def test_versions_are_those_of_what_computes() -> None:
    found = provenance.versions()
    assert found["torch"] == torch.__version__ and {"python", "numpy", "dl"} <= found.keys()


def test_a_processor_that_may_use_less_than_it_can_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provenance.ISA, raising=False)
    able = {"avx512_bf16": True, "amx_bf16": False, "avx2": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert provenance.capability() == "AVX512, avx512_bf16"
    monkeypatch.setenv(provenance.ISA, "AVX2")
    assert provenance.machine()["capability"] == "AVX512, avx512_bf16, ONEDNN_MAX_CPU_ISA=AVX2"
    assert provenance.machine()["threads"] == torch.get_num_threads()


def test_a_processor_has_a_name_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"text": "processor\t: 0\nmodel name\t: Abacus 9: fast\nmodel name\t: another\n"}
    monkeypatch.setattr(Path, "read_text", lambda path, **_: read["text"])
    assert provenance.processor_name() == "Abacus 9: fast"
    read["text"] = "Hardware : a board\n"  # ARM's has no model name
    monkeypatch.setattr(provenance.platform, "processor", lambda: "")
    monkeypatch.setattr(provenance.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(provenance.sys, "platform", "linux")
    assert provenance.processor_name() == "aarch64"
