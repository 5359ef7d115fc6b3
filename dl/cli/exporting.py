"""`python -m dl export RUN --format torch|safetensors|hf|onnx|gguf`: the best weights of a run, for other programs."""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch import nn

from dl.cli.classifiers import classifier
from dl.cli.runs import Run
from dl.mytorch.checkpoint import save
from dl.mytorch.config import UserError
from dl.mytorch.files import recorded_write
from dl.mytorch.introspect import check_same_layers
from dl.mytorch.inverse import inverse
from dl.mytorch.safetensors import write
from dl.mytorch.torchvision_compat import import_torchvision

INSTALL = 'pip install -e ".[export]"'
LARGEST_GRAPH = 2**31 - 2**20  # bytes of weights; a file of protobuf has 2^31


def export(options: argparse.Namespace) -> int:
    """Write the weights of a run and say how they are read.

    Raises `UserError` for a format that is not for its network, and for a path at which a run would lose its own files.
    """
    run = Run.open(options.folder)
    out = options.out or run.path / f"export{FORMATS[options.format][1]}"
    own = out.name in ("best.pt", "last.pt") or out.suffix in (".json", ".txt")
    if (out / "best.pt").exists() or (own and (out.parent / "best.pt").exists()):
        raise UserError(f"--out {out} would overwrite files of a run: choose another path")
    FORMATS[options.format][0](run, out)
    return 0


def to_torch(run: Run, out: Path) -> None:
    save(run.model().state_dict(), out)
    print(f'written: {out}; torch.load("{out}", weights_only=True) is its state dict')


def to_safetensors(run: Run, out: Path) -> None:
    with recorded_write(out) as file:
        write(run.model().state_dict(), file, {"format": "pt", "recipe": run.recipe})
    print(f'written: {out}; safetensors.torch.load_file("{out}") is its state dict')


def to_hf(run: Run, out: Path) -> None:
    """Write a folder with the network as a class of transformers, diffusers or torchvision, as the model's convert.py knows."""
    model = run.model()
    convert = _converter(model)
    if hasattr(convert, "from_torchvision") and not hasattr(convert, "to_torchvision"):
        reference = _refused(run, "hf", torchvision_s, convert.from_torchvision, run.config.model, model)
    else:
        kinds = [kind for kind in ("to_transformers", "to_diffusers") if hasattr(convert, kind)]
        reference = _call(run, "hf", kinds[0] if kinds else "to_torchvision", model)
    kind = f"{type(reference).__module__}.{type(reference).__name__}"
    out.mkdir(parents=True, exist_ok=True)
    if hasattr(reference, "save_pretrained"):
        with tempfile.TemporaryDirectory(dir=out, prefix=".") as made:  # only whole files get their names
            reference.save_pretrained(made)
            for path in sorted(Path(made).iterdir()):
                _publish(path, out / path.name)
        if (tokens := run.vocabularies.get("tokens")) is not None:
            tokens.save(out if hasattr(tokens, "merges") else out / "vocabulary-tokens.json")
        print(f'written: {out}; {kind.partition(".")[0]}.{type(reference).__name__}.from_pretrained("{out}") reads it')
    else:
        with recorded_write(out / "model.safetensors") as file:
            write(reference.state_dict(), file, {"format": "pt"})
        print(f"written: {out / 'model.safetensors'}, the state dict of a {kind} of these sizes")


def torchvision_s(convert: Callable[[nn.Module], nn.Module], preset: str, model: nn.Module) -> nn.Module:
    """Return torchvision's network of the name `preset` with the weights of `model`, the inverse of its converter `convert`.

    Raises `ValueError` for a preset that torchvision does not have, and for a network that was changed since.
    """
    models = import_torchvision().models
    if preset not in models.list_models():
        raise ValueError(f"torchvision has no {preset}")
    options: dict[str, Any] = {"num_classes": len(list(model.parameters())[-1])}
    if preset == "googlenet":
        options |= {"aux_logits": any(name.startswith("aux.") for name, _ in model.named_parameters()), "init_weights": False}
    reference = models.get_model(preset, weights=None, **options)
    check_same_layers(model, convert(reference))
    return inverse(convert, reference, model)


def to_onnx(run: Run, out: Path) -> None:
    """Write a classifier of images as a graph: images (N, C, X, X), normalised as in training, to logits (N, classes)."""
    found = classifier(run)
    image = found.prepare(torch.zeros(3, 64, 64, dtype=torch.uint8))
    if sum(weight.nbytes for weight in found.model.state_dict().values()) > LARGEST_GRAPH:
        raise UserError(f"--format onnx: the weights of {run.path} are more than the {LARGEST_GRAPH:,} bytes of such a file")
    try:
        with _silence():
            program = torch.onnx.export(
                found.model.eval(),
                (image.expand(2, -1, -1, -1),),  # a batch of one would become a constant
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise UserError(f"--format onnx needs packages that are not installed ({error}): {INSTALL}") from None
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"--format onnx: torch.onnx cannot export the network of {run.path}: {_cause(error)}") from None
    graph: Any = program
    graph.model.metadata_props["classes"] = json.dumps(list(found.classes))
    with recorded_write(out) as file:
        file.write(graph.model_proto.SerializeToString())
    print(f"written: {out}; images {tuple(image.shape[1:])}, normalised as in training -> {len(found.classes)} logits")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Show no warning, log or program that the exporter prints."""
    logging.disable()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _cause(error: BaseException) -> str:
    """Return what an error was raised from, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300)


def to_gguf(run: Run, out: Path) -> None:
    """Write a language model for llama.cpp."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".") as made:
        _call(run, "gguf", "to_gguf", run.model(), run.vocabularies.get("tokens"), Path(made) / "model.gguf")
        _publish(Path(made) / "model.gguf", out)
    print(f'written: {out}; `llama-cli -m {out} -p "..."` continues a text')


FORMATS = {
    "torch": (to_torch, ".pt"),
    "safetensors": (to_safetensors, ".safetensors"),
    "hf": (to_hf, "-hf"),
    "onnx": (to_onnx, ".onnx"),
    "gguf": (to_gguf, ".gguf"),
}


def _publish(made: Path, out: Path) -> None:
    """Copy a file that is complete to `out`, with its checksum."""
    with open(made, "rb") as whole, recorded_write(out) as file:
        shutil.copyfileobj(whole, file)


def _converter(model: nn.Module) -> Any:
    """Return the module convert.py beside the model.py of a network, None where there is none."""
    name = f"{type(model).__module__.rpartition('.')[0]}.convert"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _call(run: Run, name: str, function: str, model: nn.Module, *values: Any) -> Any:
    """Call a function of the model's convert.py. Raises `UserError` where there is none, and for what it refuses."""
    convert = _converter(model)
    if not hasattr(convert, function):
        raise UserError(f"--format {name} is not there for {run.recipe}; torch and safetensors are for every run")
    return _refused(run, name, getattr(convert, function), model, *values)


def _refused(run: Run, name: str, function: Callable[..., Any], *values: Any) -> Any:
    """Call `function`. Raises `UserError` for what it refuses."""
    try:
        return function(*values)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--format {name}: the network of {run.path} has no copy there: {error}") from None
    except ImportError as error:
        raise UserError(f"--format {name} needs the package {error.name}: {INSTALL}") from None
