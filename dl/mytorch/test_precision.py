"""What `--precision auto` takes: a table of devices that are not here, and of what a resumed run or other ranks say."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from dl.mytorch import precision
from dl.mytorch.precision import choose, native_bf16

CPU = torch.device("cpu")
XEON = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}
ZEN = XEON | {"amx_bf16": False}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)


def has(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "isa", "native"),
    [
        (XEON, None, True),
        (ZEN, None, True),
        ({"amx_bf16": True}, None, True),
        ({"architecture": "x86_64", "avx2": True}, None, False),
        (XEON | {"avx512_bf16": False, "amx_bf16": False}, None, False),
        ({"architecture": "aarch64", "bf16": True, "sve_bf16": True}, None, False),
        *(
            (XEON, isa, False)
            for isa in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
        ),
        *((XEON, isa, True) for isa in ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10_1_512_AMX")),
        *((XEON, isa, True) for isa in ("DEFAULT", "ALL", "", "unknown")),
        (XEON, "avx2", False),
        (XEON, "avx512_core_bf16", True),
        ({"architecture": "x86_64", "avx2": True}, "AVX512_CORE_AMX", False),  # it allows, it does not give
    ],
)
def test_auto_is_bf16_where_the_processor_has_it_and_onednn_may_use_it(
    capabilities: dict[str, Any], isa: str | None, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, capabilities)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):  # the second is the older name, which oneDNN still reads
        with monkeypatch.context() as patch:
            if isa is not None:
                patch.setenv(name, isa)
            assert native_bf16(CPU)[0] is native
            assert choose("auto", CPU).taken == ("bf16" if native else "fp32")


def test_a_torch_that_does_not_tell_means_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose("auto", CPU).taken == "fp32" and "does not tell" in choose("auto", CPU).reason


@pytest.mark.parametrize("native", [False, True])
def test_of_gpus_the_one_that_trains_is_asked_without_emulation(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    second = torch.device("cuda", 1)
    assert native_bf16(second)[0] is native and asked == [second]


def test_an_apple_gpu_takes_fp32() -> None:
    assert not native_bf16(torch.device("mps"))[0]


@pytest.mark.parametrize("capabilities", [XEON, {}])
def test_what_was_asked_for_is_taken_everywhere(capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, capabilities)
    for asked in ("fp32", "bf16"):
        assert choose(asked, CPU, recorded="fp32").taken == asked
    assert ("slow" in choose("bf16", CPU).reason) == (not capabilities)


@pytest.mark.parametrize(
    ("capabilities", "recorded", "reason"),
    [
        (XEON, "bf16", "auto: this processor computes bf16 natively"),
        (XEON, "fp32", "as this run was begun; auto would take bf16 here: this processor computes bf16 natively"),
        ({}, "bf16", "as this run was begun; auto would take fp32 here: this processor computes bf16 by emulation"),
        ({}, "fp32", "auto: this processor computes bf16 by emulation"),
    ],
)
def test_a_resumed_run_keeps_what_it_took(
    capabilities: dict[str, Any], recorded: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, capabilities)
    assert choose("auto", CPU, recorded) == (recorded, reason)


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        ([(True, "yes", None), (True, "yes", None)], "bf16"),
        ([(True, "yes", None), (False, "no", None)], "fp32"),  # bf16 on one rank alone would be another model
        ([(False, "no", "bf16"), (False, "no", None)], "bf16"),  # rank 0 has read the folder of the run
        ([(True, "yes", None), (True, "yes", "fp32")], "bf16"),  # a folder that another rank sees is not the run's
    ],
)
def test_ranks_take_the_same(others: list[Any], taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gather_objects", lambda own: others)
    assert choose("auto", CPU).taken == taken
