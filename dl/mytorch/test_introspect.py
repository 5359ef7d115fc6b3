"""What the table of a model says, against numbers worked by hand; looking leaves no trace."""

import re
from itertools import count
from typing import Callable

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch import introspect
from dl.mytorch.config import UserError
from dl.mytorch.introspect import (
    Probe,
    count_flops,
    count_parameters,
    explained,
    first_kernels,
    layer_summary,
    summarize,
    without_values,
)
from dl.mytorch.layers import sequential


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


class Net(nn.Module):
    """Declared in another order than used; a named list of blocks; a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2, bias=False)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.shared = nn.Linear(4, 4)
        self.unused = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        for block in self.blocks:
            x = block(x)
        return self.head(self.shared(self.shared(x)))


def rows(table: str) -> dict[str, list[str]]:
    """First column -> the others, of the lines between the rules and of the total."""
    lines = [line for line in table.splitlines()[1:] if not line.startswith("---")]
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    return {name: rest for name, *rest in cells}


X = torch.zeros(2, 1, 5, 6)


def test_the_table_of_a_small_net_is_what_a_hand_works_out() -> None:
    # FLOPs: 2 for each multiply-add. Convolution: 2 * 2 images * 30 places * 4 * 9; Linear(4, 4): 2 * 2 * 16.
    assert rows(layer_summary(Net(), X)) == {
        "conv": ["Conv2d", "(2, 4, 5, 6)", "40", "4,320"],
        "blocks.0": ["Block", "(2, 4)", "20", "64"],
        "fc": ["Linear", "(2, 4)", "20", "64"],
        "act": ["ReLU", "(2, 4)", "0", "0"],
        "blocks.1": ["Block", "(2, 4)", "20", "64"],
        "shared": ["Linear", "(2, 4)", "20", "128"],
        "head": ["Linear", "(2, 2)", "8", "32"],
        "total": ["Net", "(2, 2)", "198", "4,608"],  # with the 90 parameters of the layer that is not used
    }


def test_layers_come_in_the_order_of_first_use_indented_below_those_that_hold_them() -> None:
    lines = [line for line in layer_summary(Net(), X).splitlines() if not line.startswith("---")]
    assert [re.match(r" *\S+", line).group() for line in lines] == [
        *("layer", "conv", "blocks.0", "  fc", "  act", "blocks.1", "  fc", "  act", "shared", "head", "total"),
    ]


def test_all_lines_of_the_table_have_one_width() -> None:
    lines = layer_summary(Net(), X).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["layer", "type", "output", "shape", "parameters", "FLOPs"]


def test_outputs_of_several_tensors_are_shown() -> None:
    class Heads(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x, "mask": x[0]}

    model = sequential(rnn=nn.GRU(3, 5, batch_first=True))
    assert rows(layer_summary(model, torch.zeros(2, 7, 3)))["rnn"][1] == "(2, 7, 5), (1, 2, 5)"
    assert rows(layer_summary(Heads(), X))["total"][1] == "(2, 1, 5, 6), (1, 5, 6)"


def test_a_summary_takes_several_inputs_or_any_call_of_the_model() -> None:
    bilinear = nn.Bilinear(2, 3, 4)
    assert rows(layer_summary(bilinear, torch.zeros(5, 2), torch.zeros(5, 3)))["total"][1] == "(5, 4)"
    net = Net()
    assert summarize(net, lambda: net(X).sum()) == layer_summary(net, X)


def traces(model: nn.Module) -> list:
    return [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_a_summary_leaves_modes_hooks_statistics_and_gradients_as_they_were() -> None:
    model = sequential(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), frozen=nn.BatchNorm2d(2), drop=nn.Dropout())
    model.frozen.eval()  # a layer in another mode than the rest
    before = traces(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    layer_summary(model, torch.randn(2, 1, 5, 5, generator=torch.Generator()))
    assert traces(model) == before[0]
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_summary_that_fails_leaves_modes_and_hooks_as_they_were() -> None:
    model = Net()
    model.blocks[1].eval()
    before = traces(model)
    with pytest.raises(RuntimeError):
        layer_summary(model, torch.zeros(2, 3, 5, 6))  # 3 channels
    assert traces(model) == before


def test_parameters_are_counted_once_and_frozen_ones_not() -> None:
    model = sequential(fc1=nn.Linear(3, 3), fc2=nn.Linear(3, 3), frozen=nn.Linear(5, 5))
    assert count_parameters(model) == 12 + 12 + 30
    model.frozen.requires_grad_(False)
    model.fc2.weight = model.fc1.weight
    assert count_parameters(model) == 9 + 3 + 3


def test_a_probe_gives_what_the_layers_put_out() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 1, 5, 6)
    with Probe(model, "conv", "blocks.0.fc", "shared") as probe:
        output = model(x)
    conv = model.conv(x)
    fc = model.blocks[0].fc(conv.mean((2, 3)))
    assert torch.equal(probe["conv"], conv)
    assert torch.equal(probe["blocks.0.fc"], fc)
    assert torch.equal(model.head(probe["shared"]), output)  # of its two calls, the last


def test_a_probed_output_has_its_graph() -> None:
    model = Block()
    with Probe(model, "fc") as probe:
        model(torch.ones(1, 4)).sum().backward()
    assert probe["fc"].requires_grad


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(KeyError, match="'conv1' here; near: conv"):
        Probe(Net(), "conv1")
    with Probe(Net(), "conv", "shared") as probe:
        with pytest.raises(KeyError, match="no output of a layer 'conv'"):
            probe["conv"]  # nothing was run yet
        probe.outputs["conv"] = X
        with pytest.raises(KeyError, match="near: conv"):
            probe["cov"]


def test_a_probe_leaves_no_hook_also_after_an_error() -> None:
    model = Net()
    before = traces(model)
    with Probe(model, "conv", "head"):
        assert traces(model) != before
    assert traces(model) == before
    with pytest.raises(RuntimeError, match="inside"), Probe(model, "conv"):
        raise RuntimeError("inside")
    assert traces(model) == before


def test_what_runs_after_a_probe_is_not_kept() -> None:
    model = Net()
    with Probe(model, "conv") as probe:
        model(X)
    kept = probe["conv"]
    model(X + 1)
    assert probe["conv"] is kept


def test_first_kernels_are_those_of_the_first_convolution_that_sees_a_neighbourhood() -> None:
    model = sequential(squeeze=nn.Conv2d(3, 3, 1), wide=nn.Conv2d(3, 8, (1, 5)), conv=nn.Conv2d(8, 8, 3))
    assert first_kernels(model).data_ptr() == model.wide.weight.data_ptr()
    assert not first_kernels(model).requires_grad
    assert first_kernels(sequential(fc=nn.Linear(2, 2), mix=nn.Conv2d(2, 2, 1))) is None


def test_without_values_there_are_shapes_alone() -> None:
    with without_values():
        layer = nn.init.zeros_(nn.Linear(10**7, 10**7).weight)  # 400 terabytes
        assert layer.is_meta and layer.shape == (10**7, 10**7) and (layer[:3] @ layer).shape == (3, 10**7)
    assert torch.zeros(1).fill_(2) == 2


@pytest.mark.parametrize("init", [nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_])
def test_without_values_no_initial_weights_are_drawn(init: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(Tensor, name, None)  # a call would fail
    with without_values():
        weight = nn.Parameter(torch.empty(3, 4))
        assert init(weight) is weight


def test_flops_of_recurrent_layers_are_those_of_their_products() -> None:
    for layer, gates in ((nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)):
        model = layer(6, 8, batch_first=True)
        expected = 2 * gates * 8 * (6 + 8) * 5 * 3  # of 3 rows of 5
        assert count_flops(model, torch.zeros(3, 5, 6)) == expected
        assert f"{expected:,}" in layer_summary(model, torch.zeros(3, 5, 6)).splitlines()[-1]


def test_images_too_small_for_a_network_are_refused_with_the_smallest_size() -> None:
    model = sequential(conv=nn.Conv2d(1, 2, 5, stride=2), pool=nn.MaxPool2d(3))  # 2 x 3 + 3 pixels for one window of the pool
    batch = {"images": torch.zeros(2, 1, 5, 7), "labels": torch.zeros(2)}

    def call(batch: dict[str, Tensor]) -> Tensor:
        return model(batch["images"])

    with pytest.raises(RuntimeError) as failed:
        call(batch)
    assert call({"images": torch.zeros(2, 1, 9, 9)}).shape == (2, 2, 1, 1)
    better = explained(failed.value, call, batch)
    assert isinstance(better, UserError) and "5x7 pixels are too small for this network, which takes 9x9 or more" in str(better)


def test_an_error_that_larger_images_do_not_help_is_not_explained() -> None:
    model = nn.Conv2d(3, 2, 5)
    error = RuntimeError("channels")
    assert explained(error, lambda batch: model(batch["images"]), {"images": torch.zeros(1, 1, 4, 4)}) is error
    assert explained(error, lambda batch: None, {"tokens": torch.zeros(1, 4)}) is error


def test_the_peak_is_that_of_the_fastest_product_on_as_many_threads_as_asked_for() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), introspect.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
    assert 1e6 < introspect.peak_flops(torch.device("cpu"), torch.float32, side=64, seconds=0.002) < 1e14


def test_other_programs_do_not_lower_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, busy = count(0, 10), count(0, 2)  # seconds from look to look: on the wall, and of this program
    monkeypatch.setattr(introspect.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(introspect.time, "process_time", lambda: next(busy))
    with introspect.threads(1):
        assert introspect.peak_flops(torch.device("cpu"), torch.float32, side=64) == 2 * 64**3 / 2


def test_layers_without_values_have_their_shapes_their_graph_and_their_errors() -> None:
    def build() -> nn.Module:
        activations = {"relu": nn.ReLU(), "relu6": nn.ReLU6(inplace=True), "gelu": nn.GELU(), "drop": nn.Dropout()}
        return sequential(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), **activations)

    expected = build()(torch.zeros(2, 3, 5, 6))
    with without_values():
        model = build()
        found = model(torch.zeros(2, 3, 5, 6))
        found.sum().backward()
        assert all(parameter.is_meta and parameter.grad.shape == parameter.shape for parameter in model.parameters())
        with pytest.raises(RuntimeError):
            model.norm(torch.ones(2, 3, 5, 6))
    assert found.is_meta and found.shape == expected.shape and found.dtype == expected.dtype
