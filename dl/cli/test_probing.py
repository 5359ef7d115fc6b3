"""`evaluate RUN --with knn,linear`: features of a run's network, of initial weights, and the pixels."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dl import __main__ as front
from dl.cli import probing
from dl.cli.probing import parse_shares
from dl.cli.runs import Run
from dl.cli.testing import write_run
from dl.mytorch import probes
from dl.mytorch.config import UserError
from dl.mytorch.data import ImageConfig, Loader, Splits
from dl.mytorch.features import features_and_logits
from dl.mytorch.probes import knn_classes, linear_classes, share_of_each_class


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A LeNet, on 60 + 20 + 20 images whose class is how bright they are."""

    def examples(count: int, seed: int) -> Loader:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 4
        images = 0.3 * torch.randn(count, 1, 28, 28, generator=generator) + labels.view(-1, 1, 1, 1)
        return Loader({"images": images, "labels": labels}, 7)

    def splits(config: ImageConfig) -> Splits:
        assert not (config.hflip or config.crop or config.mixup)
        return Splits(*(examples(count, seed) for seed, count in enumerate((60, 20, 20))))

    monkeypatch.setattr(probing, "image_splits", splits)
    monkeypatch.setattr(probes, "DECAYS", (1e-2,))
    return Run.open(write_run(tmp_path / "run"))


def test_probes_are_of_the_last_layer_s_input_and_know_all_but_the_test(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run.path / "best.pt").read_bytes()
    assert front.main(["evaluate", str(run.path), "--with", "knn,linear,pixels,random", "--labels", "10%"]) == 0
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    names = ["knn error, k 20", "knn error, k 200", "linear error", "linear error, 10 % of the labels"]
    assert list(lines) == [prefix + name for prefix in ("", "random weights, ", "pixels, ") for name in names]
    splits = probing.image_splits(dataclasses.replace(run.config, **probing.UNCHANGED))
    with torch.no_grad():
        train, val, test = (features_and_logits(run.model(), loader.dataset["images"])[0] for loader in splits if loader)
    bank, labels = torch.cat([train, val]), torch.cat([splits.train.dataset["labels"], splits.val.dataset["labels"]])
    part = share_of_each_class(labels, 0.1)
    expected = {
        "knn error, k 20": knn_classes(test, bank, labels, 20),
        "linear error": linear_classes(test, bank, labels),
        "linear error, 10 % of the labels": linear_classes(test, bank[part], labels[part]),
    }
    for name, found in expected.items():
        error = (found != splits.test.dataset["labels"]).float().mean().item()  # type: ignore[union-attr]
        assert abs(float(lines[name].rstrip("%")) / 100 - error) < 0.051, name  # one of 20 by rounding
    assert (run.path / "best.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--with", "knn,beauty"], "beauty; probes are knn and linear"),
        (["--with", "pixels"], "no probe; probes are knn and linear"),
        (["--with", "knn", "--labels", "1%"], "--labels goes with --with linear"),
        (["--labels", "1%"], "--labels goes with --with linear"),
        (["--with", "linear", "--labels", "0%"], "shares of the labels are asked for"),
        (["--with", "linear", "--labels", "some"], "shares of the labels are asked for"),
    ],
)
def test_what_cannot_be_probed_is_said(run: Run, capsys: pytest.CaptureFixture[str], flags: list[str], says: str) -> None:
    assert front.main(["evaluate", str(run.path), *flags]) == 1 and says in capsys.readouterr().err


def test_a_run_on_no_images_has_no_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["evaluate", str(write_run(tmp_path / "run", "RNN/GRU")), "--with", "knn"]) == 1
    assert "on no images with labels" in capsys.readouterr().err


def test_shares_are_percents() -> None:
    assert parse_shares("1%, 10") == [0.01, 0.1] and parse_shares("") == []
    with pytest.raises(UserError, match="above 0 and at most 100%"):
        parse_shares("101%")
