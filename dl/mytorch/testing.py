"""What every model has to prove, as functions for its tests. Each raises `AssertionError` that says what failed."""

import copy
import dataclasses
import math
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dl.mytorch import checkpoint, names, optim
from dl.mytorch.config import TrainConfig
from dl.mytorch.data import synthetic
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.introspect import without_values
from dl.mytorch.tasks import Classification, Task
from dl.mytorch.trainer import Trainer


def randomize_norms(model: nn.Module, scale: tuple[float, float] = (0.5, 1.5), shift: float = 0.1) -> nn.Module:
    """Batch norms as after training, so that their scales, shifts and running statistics show in the output; gives `model`.

    Scales and variances are uniform in `scale`, shifts and means normal with deviation `shift`.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(*scale)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, shift)
    return model


def assert_same_as(
    model: nn.Module, twin: nn.Module, *inputs: Tensor, tolerance: float = 1e-9, steps: int = 3, train: bool = False
) -> None:
    """Same outputs, same gradients of parameters and inputs, same weights after `steps` of SGD, all in float64.

    `twin` has to hold a copy of the model's weights already; parameters are compared in the order of `parameters()`.
    The loss is a random linear function of the output, so that no gradient cancels.
    """
    model, twin = (copy.deepcopy(m).double().train(train) for m in (model, twin))
    counts = [len(list(m.parameters())) for m in (model, twin)]
    assert counts[0] == counts[1], f"{counts[0]} parameters, the twin has {counts[1]}"
    pairs = list(zip(model.named_parameters(), twin.parameters()))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, twin)]
    own_inputs, twin_inputs = ([_leaf(x) for x in inputs] for _ in range(2))
    weights: Tensor | None = None
    for step in range(steps):
        torch.manual_seed(step)
        output = model(*own_inputs)
        torch.manual_seed(step)
        expected = twin(*twin_inputs)
        _close(f"outputs at step {step}", output, expected, tolerance)
        if weights is None:
            weights = torch.randn_like(output)
        for optimizer, result in zip(optimizers, (output, expected)):
            optimizer.zero_grad()
            (weights * result).mean().backward()
        for (name, own), other in pairs:
            _close(f"gradient of {name} at step {step}", own.grad, other.grad, tolerance)
        for i, (own, other) in enumerate(zip(own_inputs, twin_inputs)):
            if own.requires_grad:
                _close(f"gradient of input {i} at step {step}", own.grad, other.grad, tolerance)
        for optimizer in optimizers:
            optimizer.step()
    for (name, own), other in pairs:
        _close(f"{name} after {steps} steps", own, other, tolerance)


def assert_same_function(
    own: Callable[..., Any], twin: Callable[..., Any], *inputs: Any, tolerance: float = 1e-10, seed: int = 0
) -> None:
    """Same outputs for `inputs`, and same gradients of all of these that are real numbers, which become float64.

    Of two modules also: the same names in the state dict, the twin's weights (which `own` gets here) have the same
    gradients, and buffers are the same afterwards. Outputs may be tuples of tensors. Randomness starts from `seed`.
    """
    modules = isinstance(own, nn.Module) and isinstance(twin, nn.Module)
    if modules:
        own.double().load_state_dict(twin.double().state_dict())
    results = []
    for function in (own, twin):
        leaves = [_leaf(x) if isinstance(x, Tensor) else x for x in inputs]
        torch.manual_seed(seed)
        outputs = _tensors(function(*leaves))
        torch.manual_seed(seed)
        weights = [torch.randn(y.shape, dtype=y.dtype) for y in outputs]  # of a linear function: no gradient cancels
        wanted = {f"input {i}": x for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad}
        wanted |= dict(function.named_parameters()) if modules else {}
        gradients = torch.autograd.grad(outputs, [*wanted.values()], weights, materialize_grads=True) if wanted else ()
        result = {f"output {i}": y for i, y in enumerate(outputs)}
        result |= {f"gradient of {name}": gradient for name, gradient in zip(wanted, gradients)}
        buffers = {name: buffer.double() for name, buffer in function.named_buffers()} if modules else {}
        results.append(result | buffers)
    assert results[0].keys() == results[1].keys(), f"{list(results[0])}, the twin has {list(results[1])}"
    for name, tensor in results[0].items():
        _close(name, tensor, results[1][name], tolerance)


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of real numbers in nested tuples."""
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in _tensors(part)]
    return [output] if isinstance(output, Tensor) and output.is_floating_point() else []


def _leaf(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_() if x.is_floating_point() else x


def _close(what: str, own: Tensor | None, other: Tensor | None, tolerance: float) -> None:
    assert own is not None and other is not None, f"{what}: missing"
    assert own.shape == other.shape, f"{what}: shape {tuple(own.shape)}, the twin's is {tuple(other.shape)}"
    difference = torch.dist(own.detach(), other.detach(), math.inf).item() if own.numel() else 0.0
    assert difference <= tolerance, f"{what}: differs by {difference:.3g}, more than {tolerance:g}"


class UnderTheirNames(nn.Module):
    """`reference` with the parameters of `copy`, for `assert_same_as` where the two cut their tensors in other ways.

    `theirs(copy)` gives these parameters by the reference's names, as functions of them, so that gradients get back.
    """

    def __init__(self, reference: nn.Module, copy: nn.Module, theirs: Callable[[nn.Module], dict[str, Tensor]]) -> None:
        super().__init__()
        self.copy, self.theirs = copy, theirs
        self.reference = [reference]  # not a child: its own parameters do not count

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.func.functional_call(self.reference[0], self.theirs(self.copy), inputs)


def torch_names(attention: nn.Module) -> dict[str, Tensor]:
    """The parameters of query, key, value and output by the names of `nn.MultiheadAttention`, as functions of them."""
    parts = [attention.query, attention.key, attention.value]
    names = {"in_proj_weight": torch.cat([part.weight for part in parts]), "out_proj.weight": attention.output.weight}
    if attention.output.bias is not None:
        names |= {"in_proj_bias": torch.cat([part.bias for part in parts]), "out_proj.bias": attention.output.bias}
    return names


def torch_block_names(block: nn.Module) -> dict[str, Tensor]:
    """The parameters of a transformer's block by the names of `nn.TransformerEncoderLayer` or the decoder's."""
    layers = {"linear1": block.feed_forward.fc1, "linear2": block.feed_forward.fc2}
    layers |= {name: layer for name, layer in block.named_children() if name.startswith("norm")}
    named = {f"{name}.{part}": tensor for name, layer in layers.items() for part, tensor in layer.named_parameters()}
    for our, name in (("attention", "self_attn"), ("self_attention", "self_attn"), ("cross_attention", "multihead_attn")):
        if hasattr(block, our):
            named |= {f"{name}.{part}": tensor for part, tensor in torch_names(getattr(block, our)).items()}
    return named


class TorchBlock(nn.Module):
    """A copy of a transformer's block, run through torch's `reference`: `nn.TransformerEncoderLayer` or the decoder's.

    For `assert_same_as`. The last inputs are those that `masks` names; `options` are further arguments of the reference. Its
    dropouts behind the layers are set to 0: they draw in another order of memory.
    """

    def __init__(self, block: nn.Module, reference: nn.Module, masks: Sequence[str] = (), **options: Any) -> None:
        super().__init__()
        self.block, self.masks, self.options = copy.deepcopy(block), masks, options
        for name, module in reference.named_children():
            if name in ("dropout1", "dropout2", "dropout3"):
                module.p = 0.0
        self.reference = [reference]  # not a child: its own parameters do not count

    def forward(self, *inputs: Tensor) -> Tensor:
        streams = len(inputs) - len(self.masks)
        options = dict(zip(self.masks, inputs[streams:])) | self.options
        self.reference[0].train(self.training)
        return torch.func.functional_call(self.reference[0], torch_block_names(self.block), inputs[:streams], options)


def assert_earlier_names_load(model: nn.Module, earlier: Mapping[str, str]) -> None:
    """Weights and moments of an earlier version find their parameters, by the table `RENAMED`.

    `earlier` has the names of its parameters, in its order, and today's. Moments are saved by name, and as version 0.1 saved
    them, by position.
    """
    weights = model.state_dict()
    state = names.renamed(model, {old: weights[new] for old, new in earlier.items()})
    assert {name: state[name].data_ptr() for name in state} == {name: weights[name].data_ptr() for name in weights}
    parameters = dict(model.named_parameters())
    before = torch.optim.Adam([parameters[new] for new in earlier.values()])
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    before.step()
    saved = names.by_name(before, model)
    old_names = {new: old for old, new in earlier.items()}
    saved["state"] = {old_names[name]: moments for name, moments in saved["state"].items()}
    saved["param_groups"][0]["params"] = list(earlier)
    for version in (saved, before.state_dict()):
        optimizer = torch.optim.Adam(model.parameters())
        optimizer.load_state_dict(names.by_position(version, optimizer, model, list(state), "the checkpoint"))
        for name, parameter in parameters.items():
            assert torch.equal(optimizer.state[parameter]["exp_avg"], before.state[parameter]["exp_avg"]), name


def assert_gradients_flow(model: nn.Module, batch: Batch, task: Task | None = None) -> None:
    """After one backward pass every trainable parameter has a finite gradient that is not all zero."""
    model.zero_grad()
    (task or Classification()).step(model, batch).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is zero everywhere"


def assert_overfits(
    model: nn.Module, batch: Batch, task: Task | None = None, lr: float = 1e-2, steps: int = 300, below: float = 0.05
) -> None:
    """At most `steps` of Adam on one batch bring its loss below `below`.

    Choose `lr` so that a third of the steps suffice for any seed: how many it takes depends on the rounding of the processor.
    """
    task = task or Classification()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        loss = task.step(model, batch).loss
        if loss < below:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the loss on one batch is still {loss.item():.4f} after {steps} steps, not below {below}")


@torch.no_grad()
def assert_batch_independent(model: nn.Module, *inputs: Tensor, tolerance: float = 1e-9) -> None:
    """In evaluation mode an example's output does not depend on the others in its batch. float64."""
    model = copy.deepcopy(model).double().eval()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    together = _tensors(model(*inputs))
    for i in range(len(inputs[0])):
        for alone, whole in zip(_tensors(model(*(x[i : i + 1] for x in inputs))), together, strict=True):
            _close(f"output of example {i} alone", alone, whole[i : i + 1], tolerance)


@torch.no_grad()
def assert_causal(model: Callable[[Tensor], Tensor], x: Tensor, changed: Tensor, tolerance: float = 0.0) -> None:
    """Output (B, T, ...) at position t depends on input (B, T, ...) up to t alone, and on the input at t at least somewhere.

    `changed` differs from `x` at every position; its end is put in place of that of `x` at each position in turn.
    """
    before = model(x)
    reacts = False
    for t in range(1, x.shape[1]):
        mixed = torch.cat([x[:, :t], changed[:, t:]], dim=1)
        after = model(mixed)
        _close(f"output before position {t}, when the input from {t} on changes", after[:, :t], before[:, :t], tolerance)
        reacts |= bool((after[:, t:] != before[:, t:]).any())
    assert reacts, "the output does not depend on the input at all"


def assert_streams_exactly(
    model: nn.Module, batch: Batch, folder: Path | str, task: Task | None = None, tolerance: float = 1e-9, **config: Any
) -> None:
    """Three updates with blocks on disk (`offloading.Offloader`) have the gradients, weights and buffers of the ordinary way.

    Each update is from two forwards, by AdamW with clipping, in float64. `config`: more of the trainer's.
    """
    seen = []
    for layerwise in ("none", "stream"):
        own = copy.deepcopy(model).double().train()
        options = TrainConfig(str(folder), "", layerwise=layerwise, **{"device": "cpu", "grad_clip": 0.1, "accumulate": 2, **config})
        trainer = Trainer(own, task or Classification(), optim.adamw(1e-3), optim.constant(), options)
        gradients: list[dict[str, Tensor]] = []
        apply = trainer.step.apply_gradients

        def note(*arguments: Any) -> None:
            gradients.append({name: p.grad.clone() for name, p in own.named_parameters() if p.grad is not None})
            apply(*arguments)

        trainer.step.apply_gradients = note  # type: ignore[method-assign]
        torch.manual_seed(0)
        for _ in range(3):
            trainer.step(_halves(batch))
        seen.append((gradients, own.state_dict()))
    for step, (expected, found) in enumerate(zip(*(gradients for gradients, _ in seen), strict=True)):
        assert expected.keys() == found.keys()
        for name in expected:
            _close(f"gradient of {name} at step {step}", found[name], expected[name], tolerance)
    for name, value in seen[0][1].items():
        _close(f"{name} after three steps", seen[1][1][name].double(), value.double(), tolerance)


def _halves(batch: Batch) -> list[Batch]:
    """In float64."""
    exact = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    return [{name: tensor[i::2] for name, tensor in exact.items()} for i in (0, 1)]


def assert_resumes_exactly(main: Callable[[Any, Splits], Any], config: TrainConfig, make_data: Callable[[], Splits]) -> None:
    """A run of `main` that is stopped after a third of its steps and started again leaves the bits of an undisturbed one.

    `config.out` is an empty folder, in which two runs are made. The stop is a SIGTERM, while the loop runs.
    """
    whole, broken = (dataclasses.replace(config, out=str(Path(config.out) / name)) for name in ("whole", "broken"))
    main(whole, make_data())
    steps = checkpoint.load(Path(whole.out) / "last.pt")["position"][0]
    data = make_data()
    stop_after = max(1, steps // 3) * config.accumulate
    data.train.augment = _stopping(data.train.augment, stop_after)
    try:
        main(broken, data)
    except SystemExit as stopped:
        assert stopped.code == 128 + signal.SIGTERM, f"stopped with status {stopped.code}"
    else:
        raise AssertionError(f"the run took SIGTERM after {stop_after} batches and went on to its end")
    main(broken, make_data())
    assert_same_runs(whole.out, broken.out)


def _stopping(augment: Any, batches: int) -> Callable[[Batch, torch.Generator], Batch]:
    served = 0

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        nonlocal served
        served += 1
        if served == batches:
            signal.raise_signal(signal.SIGTERM)
        return batch if augment is None else augment(batch, generator)

    return apply


def has_compiler() -> bool:
    """Whether torch.compile can make programs for this CPU."""
    return shutil.which("g++") is not None


def assert_same_runs(first: Path | str, second: Path | str) -> None:
    """history.json and best.pt of two runs are the same bytes; the states in their last.pt hold the same bits."""
    first, second = Path(first), Path(second)
    for name in ("history.json", "best.pt"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), f"{name} differs between {first} and {second}"
    assert_same_state(checkpoint.load(first / "last.pt"), checkpoint.load(second / "last.pt"), "last.pt")


def assert_same_state(a: Any, b: Any, where: str) -> None:
    """Nested dicts and lists hold the same values, tensors the same bits; `where` begins the name of what does not."""
    if isinstance(a, Tensor):
        assert a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b), f"{where} differs"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), f"{where} has other keys"
        for key in a:
            assert_same_state(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{where} has another length"
        for i, (left, right) in enumerate(zip(a, b)):
            assert_same_state(left, right, f"{where}[{i}]")
    else:
        assert a == b, f"{where}: {a!r} and {b!r}"


def anonymous_layers(model: nn.Module) -> list[str]:
    """Return the layers named by a digit, but for the place in a list of repeated blocks."""
    found = []
    for parent_name, parent in model.named_modules():
        kinds = {type(child) for child in parent.children()}
        repeated = isinstance(parent, nn.ModuleList) and len(kinds) == 1
        for name, _ in parent.named_children():
            if name.isdigit() and not repeated:
                found.append(f"{parent_name}.{name}".lstrip("."))
    return found


def assert_presets_build(build: Callable[..., nn.Module]) -> None:
    """Every preset beside `build` makes a network, without values, in which every layer has a name; "tiny" is one of them."""
    presets = sys.modules[build.__module__].PRESETS
    assert "tiny" in presets, f"there is no preset tiny beside {', '.join(presets)}"
    for preset in presets:
        with without_values():
            found = anonymous_layers(build(preset))
        assert not found, f"layers of preset {preset} without a name: {', '.join(found)}"


def tiny_splits(channels: int = 1, size: int = 28) -> Splits:
    """Return 10 + 5 + 3 images in batches of 4: three steps."""
    return synthetic.image_splits(channels, size, batch_size=4, counts=(10, 5, 3))


class Overfit(NamedTuple):
    """A network that `standard_checks` overfits, and how: options of `build`, the batch, the rest as in `assert_overfits`."""

    options: Mapping[str, Any] = {}
    batch: Callable[[], Batch] | None = None  # that of the gradients
    task: Callable[[], Task] | None = None  # that of the gradients
    lr: float = 1e-2
    below: float = 0.05


def standard_checks(
    build: Callable[..., nn.Module],
    main: Callable[[Any, Splits], Any],
    config: TrainConfig | Callable[[Path], TrainConfig],
    batch: Callable[[], Batch],
    *,
    splits: Callable[[Any], Splits] = lambda config: tiny_splits(),
    task: Callable[[], Task] = Classification,
    variants: Sequence[Mapping[str, Any]] = ({},),
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    inputs: Callable[[], tuple[Tensor, ...]] | None = None,
    output: Callable[[nn.Module], nn.Module] = lambda model: model,
    overfit: Sequence[Overfit] = (Overfit(),),
    skip: Mapping[str, str] = {},
) -> Callable[..., None]:
    """Return the test of what every model has to prove, an item for each proof: `test_standard = standard_checks(...)`.

    Networks are of the preset "tiny" with the options of each of `variants`, their weights changed by `prepare`. A step of
    `task` on `batch` gives every parameter a gradient. For each of `inputs` (default: three images of the batch) the output
    in evaluation mode is the same alone; `output` wraps a network whose output is not a tensor with a row for each. Each of
    `overfit` overfits its batch. `main(config, splits(config))` is interrupted and resumed without a trace; `config` may need
    an empty folder for its data. Every preset builds. `skip` switches a check off by its name and says why.
    """

    def network(options: Mapping[str, Any]) -> nn.Module:
        return build(**{"preset": "tiny", **options})

    def gradients(folder: Path, options: Mapping[str, Any]) -> None:
        assert_gradients_flow(prepare(network(options)), batch(), task())

    def independence(folder: Path, options: Mapping[str, Any]) -> None:
        examples = inputs() if inputs else (batch()["images"][:3],)
        assert_batch_independent(output(prepare(network(options))), *examples)

    def overfits(folder: Path, case: Overfit) -> None:
        data, learner = (case.batch or batch)(), (case.task or task)()
        assert_overfits(network(case.options), data, learner, lr=case.lr, below=case.below)

    def resumes(folder: Path, _: None) -> None:
        own = dataclasses.replace(config(folder) if callable(config) else config, out=str(folder / "runs"))
        assert_resumes_exactly(main, own, lambda: splits(own))

    def presets(folder: Path, _: None) -> None:
        assert_presets_build(build)

    proofs = {
        "gradients_reach_every_parameter": (gradients, variants),
        "batch_independence": (independence, variants),
        "overfits_one_batch": (overfits, overfit),
        "resumes_exactly": (resumes, [None]),
        "presets_build": (presets, [None]),
    }
    return _as_test(proofs, skip)


def _as_test(
    proofs: Mapping[str, tuple[Callable[[Path, Any], None], Sequence[Any]]], skip: Mapping[str, str]
) -> Callable[..., None]:
    """Return a parametrized test: each proof, called with an empty folder and each of its cases, but for those of `skip`."""
    import pytest

    for name, reason in skip.items():
        if name not in proofs or not reason.strip():
            raise ValueError(f"skip is {name}: {reason!r}; it has a reason for each check that is off, of {', '.join(proofs)}")
    items = []
    for name, (proof, cases) in proofs.items():
        marks = [pytest.mark.skip(reason=skip[name])] if name in skip else []
        for i, case in enumerate(cases):
            items.append(pytest.param(proof, case, id=f"{name}-{i}" if len(cases) > 1 else name, marks=marks))

    @pytest.mark.parametrize(("proof", "case"), items)
    @pytest.mark.usefixtures("no_pictures", "no_reports")
    def test_standard(proof: Callable[[Path, Any], None], case: Any, tmp_path: Path) -> None:
        proof(tmp_path, case)

    return test_standard
