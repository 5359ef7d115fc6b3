"""Time of the forms of Mamba's selective scan, forward and backward, on one thread: each computes the same.

    OMP_NUM_THREADS=1 python -m dl.benchmarks.scans --cpu-time
    OMP_NUM_THREADS=1 python -m dl.benchmarks.scans --cpu-time --tokens 256 --out runs/benchmarks/scans-256.json

One layer of width 128, by default: 256 channels with states of 16 numbers, 12 texts of 64 tokens.
"""

import argparse
import sys
from typing import Callable, Sequence

import torch
from torch import Tensor

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.StateSpace.Mamba.model import recurrence, selective_scan

# B texts, T tokens, E channels, N numbers of a state. A form: A (N, E), step and u (B, T, E), B and C (B, T, N) -> (B, T, E)
Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def in_turn(A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return recurrence(nothing(A, u), A, step, u, B, C)[0]


def in_chunks(A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return selective_scan(nothing(A, u), A, step, u, B, C, chunk=16)[0]


def numbers_last(A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence with states (B, E, N)."""
    state, outputs = nothing(A, u).transpose(1, 2).contiguous(), []
    for step_t, u_t, B_t, C_t in zip(step.unbind(1), u.unbind(1), B.unbind(1), C.unbind(1)):
        state = torch.exp(step_t[..., None] * A.T) * state + u_t[..., None] * B_t[:, None]
        outputs.append((state @ C_t[..., None])[..., 0])
    return torch.stack(outputs, dim=1)


def decays_at_once(A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence, with decays, inputs and outputs of all tokens in one tensor each (B, T, E, N)."""
    decays, inputs = discretised(A, step, u, B)
    state, states = torch.zeros_like(inputs[:, 0]), []
    for decay, each in zip(decays.unbind(1), inputs.unbind(1)):
        state = decay * state + each
        states.append(state)
    return (torch.stack(states, dim=1) @ C[..., None])[..., 0]


def doubling(A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """In log T steps: each token's state takes in those of 1, 2, 4, ... tokens before."""
    decays, states = discretised(A, step, u, B)
    distance = 1
    while distance < states.shape[1]:
        taken = states[:, distance:] + decays[:, distance:] * states[:, :-distance]
        states = torch.cat([states[:, :distance], taken], dim=1)
        decays = torch.cat([decays[:, :distance], decays[:, distance:] * decays[:, :-distance]], dim=1)
        distance *= 2
    return (states @ C[..., None])[..., 0]


def odd_and_even(A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """In 2 log T steps, with as much arithmetic as two recurrences: pairs of tokens are scanned, then the tokens between."""
    return (by_pairs(*discretised(A, step, u, B)) @ C[..., None])[..., 0]


def by_pairs(decays: Tensor, inputs: Tensor) -> Tensor:
    """Return the states (B, T, E, N); T is a power of 2."""
    if inputs.shape[1] == 1:
        return inputs
    (decay, later_decay), (first, later) = ((x[:, 0::2], x[:, 1::2]) for x in (decays, inputs))
    odd = by_pairs(later_decay * decay, later + later_decay * first)
    even = torch.cat([first[:, :1], first[:, 1:] + decay[:, 1:] * odd[:, :-1]], dim=1)
    return torch.stack([even, odd], dim=2).flatten(1, 2)


def discretised(A: Tensor, step: Tensor, u: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    return torch.exp(step[..., None] * A.T), u[..., None] * B[:, :, None]  # (B, T, E, N) each


def nothing(A: Tensor, u: Tensor) -> Tensor:
    return u.new_zeros(len(u), *A.shape)


FORMS: dict[str, Form] = {
    "recurrence": in_turn,
    "numbers last": numbers_last,
    "decays at once": decays_at_once,
    "chunks of 16": in_chunks,
    "odd and even": odd_and_even,
    "doubling": doubling,
}


def inputs(batch: int, tokens: int, channels: int = 256, size: int = 16) -> list[Tensor]:
    """Return A, step, u, B, C as they are at first in training."""
    torch.manual_seed(0)
    A = -torch.arange(1.0, size + 1)[:, None].repeat(1, channels)
    step, u = torch.rand(batch, tokens, channels) * 0.1, torch.randn(batch, tokens, channels)
    parts = [A, step, u, torch.randn(batch, tokens, size), torch.randn(batch, tokens, size)]
    return [part.requires_grad_() for part in parts]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Time of the forms of a selective scan.", cpu_time=True)
    parser.add_argument("--tokens", type=int, choices=[2**n for n in range(1, 13)], default=64, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=12, help="texts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    parts = inputs(options.batch, options.tokens)
    works = {
        name: lambda form=form: torch.autograd.grad(form(*parts).square().sum(), parts)  # type: ignore[misc]
        for name, form in FORMS.items()
    }
    taken = common.seconds(works, options.rounds, options.clock, warm_ups=1)
    speeds = {name: [1000 * one for one in of] for name, of in taken.items()}
    write(common.about_this_machine(options.command) | {"milliseconds": speeds}, options.out)
    print(common.table(speeds, "ms"))


if __name__ == "__main__":
    sys.exit(main())
