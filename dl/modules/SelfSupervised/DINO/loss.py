"""The student predicts what the teacher says of another view; and how its temperature and the teacher's weights move."""

import math

import torch
from torch import Tensor

# B images, K outputs; V views that the student sees, of which the teacher sees the first T


def distillation_loss(
    student: Tensor, teacher: Tensor, centre: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Equation 3: the mean cross-entropy over images and pairs of two different views, one of each network.

    `student` (V, B, K), `teacher` (T, B, K), no gradient; `centre` (K,) is that of before this batch (section 3.1: without it
    one output would win everywhere, without the teacher's low temperature all would be equal).
    """
    student, teacher = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (student, teacher.detach()))
    targets = ((teacher - centre) / teacher_temperature).softmax(-1)
    logs = (student / student_temperature).log_softmax(-1)
    losses = -torch.einsum("tbk,vbk->tvb", targets, logs)  # (T, V, B)
    other = ~torch.eye(len(teacher), len(student), dtype=torch.bool, device=losses.device)
    return losses[other].mean()


def momentum(start: float, step: int, total: int) -> float:
    """Return the teacher's momentum in a step, counted from 0: half a cosine from `start` to 1 (section 3.1)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total)) / 2


def teacher_temperature(start: float, end: float, warmup: float, step: int, total: int) -> float:
    """Return the teacher's temperature in a step: linear from `start` to `end` in the share `warmup` of all steps, then `end`.

    Section 3.2.
    """
    rise = warmup * total
    return end if step >= rise else start + (end - start) * step / rise
