"""generate, translate, sample, predict, search and evaluate call what belongs to a run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dl import __main__ as front
from dl.cli import catalogue, verbs
from dl.cli.evaluate import means_of
from dl.cli.runs import Run
from dl.cli.testing import write_run
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader, Splits

COMMANDS = {
    ("generate", "GPT/Llama"): "dl.modules.GPT.generate",
    ("generate", "StateSpace/Mamba"): "dl.modules.StateSpace.Mamba.generate",
    ("generate", "RNN/GRU"): "dl.modules.RNN.generate",
    ("translate", "RNN/Seq2Seq"): "dl.modules.RNN.translate",
    ("translate", "Transformers/Transformer"): "dl.modules.Transformers.Transformer.translate",
    ("sample", "Diffusion/DiT"): "dl.modules.Diffusion.DDPM.sample",
    ("sample", "Generative/VAE"): "dl.modules.Generative.sample",
    ("predict", "RNN/TextCNN"): "dl.modules.RNN.predict",
    ("predict", "Segmentation/UNet"): "dl.modules.Segmentation.predict",
    ("predict", "Detection/FCOS"): "dl.modules.Detection.predict",
    ("predict", "CNN/LeNet"): "dl.modules.CNN.ResNet.predict",
    ("predict", "Transformers/ViT"): "dl.modules.CNN.ResNet.predict",
    ("predict", "Transformers/Swin"): "dl.modules.CNN.ResNet.predict",
    ("search", ""): "dl.modules.DataMining.ImageSearch.search",
    ("scores", ""): "dl.modules.Generative.scores",
    ("score", "Diffusion/FlowMatching"): "dl.modules.Diffusion.score",
}


@pytest.mark.parametrize(("verb", "recipe"), COMMANDS)
def test_a_verb_is_the_command_of_the_category_the_model_or_a_model_beside_it(verb: str, recipe: str) -> None:
    assert verbs.find_command(verb, recipe).__name__ == COMMANDS[verb, recipe]


def test_the_words_behind_the_run_are_the_command_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, called = str(write_run(tmp_path / "run", "RNN/GRU")), []
    assert front.main(["generate", run, "ab", "--tokens", "3", "--seed", "0"]) == 0
    said = capsys.readouterr().out
    assert catalogue.module("RNN", "generate").main([run, "ab", "--tokens", "3", "--seed", "0"]) == 0
    assert capsys.readouterr().out == said and said.startswith("ab")
    monkeypatch.setattr(catalogue.module("CNN/ResNet", "predict"), "main", lambda argv: called.append(argv) or 0)
    lenet = str(write_run(tmp_path / "lenet"))
    assert front.main(["predict", lenet, "shoe.png", "--top", "1"]) == 0 and called == [
        ["shoe.png", "--top", "1", "--run", lenet]
    ]
    assert front.main(["translate", lenet, "a"]) == 2
    assert capsys.readouterr().err == "error: CNN/LeNet has no command translate; `python -m dl --help` shows all\n"
    (Path(lenet) / "config.json").write_text("{", encoding="utf-8")
    assert front.main(["predict", lenet, "shoe.png"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {Path(lenet) / 'config.json'} ")


def test_evaluate_states_the_test_of_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    batch: dict[str, Any] = {"images": torch.randint(256, (6, 1, 28, 28), dtype=torch.uint8), "labels": torch.arange(6)}
    before = {path.name for path in run.iterdir()}
    opened = Run.open(run)
    loader = Loader(batch, 4, transform=lambda batch, chance: batch | {"images": batch["images"] / 255})
    monkeypatch.setattr(opened.module, "image_splits", lambda *_, **__: Splits(loader, loader, loader))
    means = means_of(opened)
    with torch.no_grad():
        wrong = opened.model()(batch["images"] / 255).argmax(1) != batch["labels"]
    assert means["top1_error"] == pytest.approx(wrong.double().mean().item())
    assert {path.name for path in run.iterdir()} == before
    assert front.main(["evaluate", str(run), "--with", "top1_error"]) == 0
    assert capsys.readouterr().out == f"top1 error {means['top1_error']:.2%}\n"
    with pytest.raises(UserError, match="was trained on other classes than --data mnist has"):
        means_of(opened, "mnist")
    assert front.main(["evaluate", str(run), "--with", "beauty"]) == 1 and "is tested by loss" in capsys.readouterr().err
    assert front.main(["evaluate", str(run), "--with", "frechet"]) == 1 and "--classifier RUN" in capsys.readouterr().err
