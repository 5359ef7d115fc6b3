"""Fine-tuning: a network that classifies images starts from the weights of another training."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.cli.classifiers import published
from dl.cli.runs import Run, resumes
from dl.mytorch.checkpoint import load, load_state
from dl.mytorch.config import UserError, flag, user_path
from dl.mytorch.data import ImageConfig
from dl.mytorch.distributed import is_main
from dl.mytorch.optim import MakeOne, shown


@dataclass(frozen=True)
class FineTuningConfig(ImageConfig):
    """What a recipe that classifies images can be told of where it starts."""

    weights: str = flag(
        "", "start from these: a run of the same model, a file of `python -m dl export`, or torchvision's state dict"
    )
    freeze: bool = flag(False, "with --weights: train the last layer alone; statistics of norms stay, too")
    backbone_lr: float = flag(1.0, "with --weights: learning rate of all but the last layer, in parts of --lr")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("backbone_lr", 0 < self.backbone_lr <= 1, "above 0 and at most 1")
        for name, changed in (("freeze", self.freeze), ("backbone_lr", self.backbone_lr != 1)):
            self._check(name, not changed or bool(self.weights), "with --weights: without, nothing has been learnt yet")


def start(model: nn.Module, config: FineTuningConfig) -> nn.Module:
    """Return `model` with the weights that the config names; its last layer keeps its own where the classes are others.

    A run that resumes gets its weights from last.pt later, and here only what it freezes.

    Raises `UserError` for weights that are missing, damaged, not finite or of another network.
    """
    if not config.weights or next(model.parameters()).is_meta:
        return model
    if resumes(config):
        if config.freeze:
            _freeze(model, _trained(Path(config.out) / "last.pt"))
        return model
    weights, own = _read(model, config), model.state_dict()
    new = [name for name, weight in own.items() if name in weights and weights[name].shape != weight.shape]
    wrong = [*(own.keys() ^ weights.keys()), *(name for name in new if own[name].shape[1:] != weights[name].shape[1:])]
    if wrong:
        raise UserError(
            f"--weights {config.weights} are of another network than --model {config.model} for --data {config.data}: "
            f"{wrong[0]} differs"
        )
    if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise UserError(f"--weights {config.weights}: {broken[0]} holds numbers that are not finite")
    model.load_state_dict({**weights, **{name: own[name] for name in new}})
    if config.freeze:
        trained = last_layers(model, new)
        _freeze(model, {name for name, parameter in model.named_parameters() if parameter in trained})
    if is_main():
        print(f"weights of {config.weights}; new are {', '.join(new) or 'none'}", file=sys.stderr)
    return model


def _read(model: nn.Module, config: FineTuningConfig) -> dict[str, Tensor]:
    """Return a state dict under our names."""
    path = user_path(config.weights)
    recipe = "/".join(Path(sys.modules[type(config).__module__].__file__ or "").parts[-3:-1])
    if path.is_dir():
        return Run.open(path, recipe).model().state_dict()
    state = load(path)
    if state.keys() == model.state_dict().keys():
        return state
    if config.model not in _published_presets(recipe):
        raise UserError(
            f"--weights {path}: not the names of --model {config.model}; torchvision's weights go with --model "
            f"{', '.join(_published_presets(recipe)) or 'of another recipe'}"
        )
    return published(recipe, config.model, path).model.state_dict()


def _published_presets(recipe: str) -> list[str]:
    """Return the presets of which torchvision publishes weights."""
    from dl.mytorch.torchvision_compat import import_torchvision

    return [preset for preset in catalogue.presets(recipe) if preset in import_torchvision().models.list_models()]


def last_layers(model: nn.Module, new: list[str]) -> set[nn.Parameter]:
    """Return the parameters of the last layer and of those with `new` weights."""
    names = [name for name, _ in model.named_parameters()]
    layers = {name.rpartition(".")[0] for name in [names[-1], *new]}
    return {parameter for name, parameter in model.named_parameters() if name.rpartition(".")[0] in layers}


def _trained(last: Path) -> set[str]:
    """Return the names of the parameters that the run of a last.pt trains: those of its optimizers."""
    groups = [group for optimizer in load_state(last)["optimizers"] for group in optimizer["param_groups"]]
    return {name for group in groups for name in group["params"]}


def _freeze(model: nn.Module, trained: set[str]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, norm=module: norm  # type: ignore[method-assign] # else the next epoch moves them


@shown
def slower_backbone(optimizer: MakeOne, backbone_lr: float) -> MakeOne:
    """`optimizer` with `backbone_lr` parts of its rate for all but the last layer."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        made, last = optimizer(model), last_layers(model, [])
        for group in list(made.param_groups):
            inside = [parameter for parameter in group["params"] if parameter not in last]
            group["params"] = [parameter for parameter in group["params"] if parameter in last]
            made.add_param_group({**group, "params": inside, "lr": group["lr"] * backbone_lr})
        return made

    return make


def rates(optimizer: MakeOne, config: FineTuningConfig) -> MakeOne:
    """Return `optimizer`, for the backbone with the rate that the config asks for."""
    return optimizer if config.backbone_lr == 1 else slower_backbone(optimizer, config.backbone_lr)
