"""The precision of the forward pass, and what `--precision auto` takes: bf16 where the device computes in it natively.

Where it is emulated, on most processors, training in bf16 takes five to fifteen times as long as in fp32.
"""

import os
from typing import NamedTuple

import torch

from dl.mytorch.distributed import gather_objects

# Values of ONEDNN_MAX_CPU_ISA with which oneDNN, which computes matrix products and convolutions, emulates bf16. All others
# allow AVX512_CORE_BF16, as does a value that it does not know. ATEN_CPU_CAPABILITY does not count: it is about the
# remaining operators, whose share of the time is small.
ISAS_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


class Precision(NamedTuple):
    """What was taken, "fp32" or "bf16", and why, as it is printed."""

    taken: str
    reason: str


def native_bf16(device: torch.device) -> tuple[bool, str]:
    """Return whether `device` computes in bf16 natively and may use it, and the same as a clause to print.

    It depends on nothing but the device and the environment variable ONEDNN_MAX_CPU_ISA.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, f"this GPU computes bf16 {'natively' if native else 'by emulation'}"
    if device.type != "cpu":
        return False, f"auto takes bf16 on CUDA and x86 alone, not on {device.type}"
    if not hasattr(torch.cpu, "get_capabilities"):
        return False, f"torch {torch.__version__} does not tell whether this processor computes bf16 natively"
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False, "this processor computes bf16 by emulation"
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
    if isa.upper() in ISAS_WITHOUT_BF16:
        return False, f"this processor computes bf16 natively, but may not with ONEDNN_MAX_CPU_ISA={isa}"
    return True, "this processor computes bf16 natively"


def choose(asked: str, device: torch.device, recorded: str | None = None) -> Precision:
    """Return the precision that a run takes, the same on all ranks: "auto" is bf16 if it is native on each of them.

    recorded: what the run took that is resumed; with "auto" it is kept. That of rank 0 counts.
    """
    ranks = gather_objects((*native_bf16(device), recorded))
    recorded = ranks[0][2]
    native, clause, _ = min(ranks, key=lambda found: found[0])  # the first without bf16, if there is one
    if asked != "auto":
        return Precision(asked, "asked for" if native or asked == "fp32" else f"asked for; {clause}, which is slow")
    auto = "bf16" if native else "fp32"
    if recorded not in (None, auto):
        return Precision(recorded, f"as this run was begun; auto would take {auto} here: {clause}")
    return Precision(auto, f"auto: {clause}")
