"""Recurrent layers: Elman's network, LSTM and GRU, as cells and as stacks over whole sequences.

A step of each is a function (x, state, weight, bias) -> state. Its x is the share of the inputs, W_ih x_t + b_ih: no state
goes into it, so a layer computes it for all steps in one product.

Left out: sequences without a dimension for the batch, and `proj_size`.
"""

import math
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dl.mytorch.from_scratch.checks import at_least, probability, same_shape
from dl.mytorch.from_scratch.layers.dropout import dropout
from dl.mytorch.from_scratch.layers.linear import linear

# T steps, B sequences, N numbers of steps of all of them, C width of the input, H of the state, L layers, D directions

State = tuple[Tensor, ...]  # of (B, H): h alone, or h and c


def tanh_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """h' = tanh(x + W h + b): Elman 1990, https://doi.org/10.1207/s15516709cog1402_1."""
    return (torch.tanh(x + linear(state[0], weight, bias)),)


def relu_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """h' = max(0, x + W h + b)."""
    return ((x + linear(state[0], weight, bias)).clamp_min(0),)


def lstm_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Gates input, forget, candidate, output: c' = f c + i g, h' = o tanh(c').

    Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of Gers et al. 2000.
    """
    h, c = state
    i, f, g, o = (x + linear(h, weight, bias)).chunk(4, dim=-1)  # (B, 4H) -> 4 x (B, H)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Gates reset, update, candidate: n = tanh(x_n + r (W_n h + b_n)), h' = (1 - z) n + z h.

    Cho et al. 2014, https://arxiv.org/abs/1406.1078, section 2.3. There r multiplies h before W_n; this way, which torch
    has too, one product serves all three gates. And there z is the share of the candidate, 1 - z here.
    """
    (h,) = state
    x_r, x_z, x_n = x.chunk(3, dim=-1)  # (B, 3H) -> 3 x (B, H)
    h_r, h_z, h_n = linear(h, weight, bias).chunk(3, dim=-1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = torch.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * h,)


Step = Callable[[Tensor, State, Tensor, Tensor | None], State]
STEPS: dict[str, tuple[Step, int, int]] = {  # name -> step, how many H its gates have, how many tensors its state has
    "tanh": (tanh_step, 1, 1),
    "relu": (relu_step, 1, 1),
    "lstm": (lstm_step, 4, 2),
    "gru": (gru_step, 3, 1),
}


class _Recurrent(nn.Module):
    """Weights of cells and layers: for each suffix weight_ih, weight_hh, bias_ih, bias_hh, uniform in +-1 / sqrt(H)."""

    kind: str  # a key of STEPS

    def __init__(self, hidden_size: int, widths: dict[str, int], bias: bool, factory: dict[str, Any]) -> None:
        super().__init__()
        at_least("hidden_size", hidden_size, 1)
        self.step, gates, self.state_size = STEPS[self.kind]
        self.hidden_size, self.bias = hidden_size, bias
        for suffix, width in widths.items():
            shapes = {"weight_ih": (gates * hidden_size, width), "weight_hh": (gates * hidden_size, hidden_size)}
            if bias:
                shapes |= {"bias_ih": (gates * hidden_size,), "bias_hh": (gates * hidden_size,)}
            for name, shape in shapes.items():
                self.register_parameter(name + suffix, nn.Parameter(torch.empty(shape, **factory)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def _weights(self, suffix: str = "") -> list[Tensor | None]:
        """weight_ih, weight_hh, bias_ih, bias_hh."""
        return [getattr(self, name + suffix, None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]

    def _to_tuple(self, state: Any) -> State:
        return state if self.state_size > 1 else (state,)

    def _from_tuple(self, state: State) -> Any:
        return state if self.state_size > 1 else state[0]


class _Cell(_Recurrent):
    """One step. `factory`: device and dtype of the parameters.

    forward: input (B, C), state or None for zeros -> new state. It is h (B, H); of an LSTM (h, c), both (B, H). One
    example alone has no B.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **factory: Any) -> None:
        super().__init__(hidden_size, {"": input_size}, bias, factory)
        self.input_size = input_size

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        if input.ndim not in (1, 2):
            raise ValueError(f"a cell takes inputs of 1 or 2 dimensions; got {tuple(input.shape)}")
        weight_ih, weight_hh, bias_ih, bias_hh = self._weights()
        zeros = (input.new_zeros(*input.shape[:-1], self.hidden_size),) * self.state_size
        state = zeros if hx is None else self._to_tuple(hx)
        for part in state:
            same_shape("a state", part, zeros[0].shape)
        return self._from_tuple(self.step(linear(input, weight_ih, bias_ih), state, weight_hh, bias_hh))


class RNNCell(_Cell):
    """A step of Elman's network, see `tanh_step`. Raises `ValueError` when `nonlinearity` is neither "tanh" nor "relu"."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", **factory: Any
    ) -> None:
        self.kind = _checked(nonlinearity)
        super().__init__(input_size, hidden_size, bias, **factory)


class LSTMCell(_Cell):
    """A step of the LSTM, see `lstm_step`."""

    kind = "lstm"


class GRUCell(_Cell):
    """A step of the GRU, see `gru_step`."""

    kind = "gru"


class _Layers(_Recurrent):
    """A stack of layers over whole sequences.

    Args:
        num_layers: each reads the outputs of the one below.
        batch_first: padded inputs and outputs are (B, T, ...) instead of (T, B, ...); states are not.
        dropout: of the outputs of every layer but the last, in training.
        bidirectional: in each layer a second one reads from the end; the outputs of both are joined.
        factory: device and dtype of the parameters.

    forward: input (T, B, C) or a `PackedSequence`, states (L D, B, H) or None for zeros -> output (T, B, D H) or packed as
    the input, last states (L D, B, H). Of an LSTM, states are two of these, (h, c). Of a packed sequence, the last state is
    the one after its own last step.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **factory: Any,
    ) -> None:
        at_least("num_layers", num_layers, 1)
        probability(dropout)
        directions = ["", "_reverse"] if bidirectional else [""]
        widths = {}
        for layer in range(num_layers):
            width = len(directions) * hidden_size if layer else input_size
            widths |= {f"_l{layer}{direction}": width for direction in directions}
        super().__init__(hidden_size, widths, bias, factory)
        self.input_size, self.num_layers, self.directions = input_size, num_layers, directions
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional

    def flatten_parameters(self) -> None:
        """Nothing: torch's puts the weights side by side for CUDA's kernels."""

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        if isinstance(input, PackedSequence):
            x, batch_sizes, order, restored = input
            x, states = self._stack(x, batch_sizes.tolist(), hx, order)
            if restored is not None:
                states = tuple(part[:, restored] for part in states)
            return PackedSequence(x, batch_sizes, order, restored), self._from_tuple(states)
        if input.ndim != 3:
            raise ValueError(f"sequences have 3 dimensions, or are packed; got {tuple(input.shape)}")
        steps = input.transpose(0, 1) if self.batch_first else input  # (T, B, C)
        x, states = self._stack(steps.flatten(0, 1), [steps.shape[1]] * len(steps), hx)
        x = x.unflatten(0, steps.shape[:2])  # (N, D H) -> (T, B, D H)
        return x.transpose(0, 1) if self.batch_first else x, self._from_tuple(states)

    def _stack(self, x: Tensor, sizes: list[int], hx: Any, order: Tensor | None = None) -> tuple[Tensor, State]:
        """Run all layers: x (N, C), of which step t has sizes[t] rows -> outputs (N, D H), last states."""
        shape = (self.num_layers * len(self.directions), sizes[0], self.hidden_size)
        states = (x.new_zeros(shape),) * self.state_size if hx is None else self._to_tuple(hx)
        for part in states:
            same_shape("a state", part, shape)
        if order is not None:
            states = tuple(part[:, order] for part in states)
        finals = []
        for layer in range(self.num_layers):
            if layer:
                x = dropout(x, self.dropout, self.training)
            outputs = []
            for direction in self.directions:
                state = tuple(part[len(finals)] for part in states)  # (L D, B, H) -> (B, H)
                output, final = self._run(x, sizes, state, f"_l{layer}{direction}")
                outputs.append(output)
                finals.append(final)
            x = torch.cat(outputs, dim=-1)  # D x (N, H) -> (N, D H)
        return x, tuple(torch.stack(part) for part in zip(*finals))  # L D x (B, H) -> (L D, B, H)

    def _run(self, x: Tensor, sizes: list[int], state: State, suffix: str) -> tuple[Tensor, State]:
        """Run one layer in one direction: x (N, C) -> outputs (N, H), last state (B, H).

        At step t the first sizes[t] sequences advance, and the others keep their state: read forwards they have ended,
        read backwards they have not begun.
        """
        weight_ih, weight_hh, bias_ih, bias_hh = self._weights(suffix)
        shares = linear(x, weight_ih, bias_ih).split(sizes)  # (N, gates H) -> T x (sizes[t], gates H)
        turn = -1 if suffix.endswith("reverse") else 1
        outputs = []
        for share in shares[::turn]:
            rows = len(share)
            new = self.step(share, tuple(part[:rows] for part in state), weight_hh, bias_hh)
            outputs.append(new[0])
            waiting = rows < len(state[0])
            state = tuple(torch.cat([part, old[rows:]]) for part, old in zip(new, state)) if waiting else new
        return torch.cat(outputs[::turn]), state


class RNN(_Layers):
    """Elman's network over sequences, see `tanh_step` and the base class. `nonlinearity` as in `RNNCell`."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", *sizes: Any, **options: Any
    ) -> None:
        self.kind = _checked(nonlinearity)
        super().__init__(input_size, hidden_size, num_layers, *sizes, **options)


class LSTM(_Layers):
    """The LSTM over sequences, see `lstm_step` and the base class."""

    kind = "lstm"


class GRU(_Layers):
    """The GRU over sequences, see `gru_step` and the base class."""

    kind = "gru"


def _checked(nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'nonlinearity {nonlinearity!r}: there are "tanh" and "relu"')
    return nonlinearity
