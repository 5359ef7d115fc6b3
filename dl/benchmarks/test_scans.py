import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import scans


def test_all_forms_of_a_scan_compute_the_same() -> None:
    parts = [part.detach().double().requires_grad_() for part in scans.inputs(2, 32, channels=3, size=2)]
    expected = scans.in_turn(*parts)
    gradients = torch.autograd.grad(expected.square().sum(), parts)
    for name, form in scans.FORMS.items():
        y = form(*parts)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12, msg=name)
        for ours, theirs in zip(torch.autograd.grad(y.square().sum(), parts), gradients):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=name)


def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scans.main(["--tokens", "2", "--batch", "1", "--rounds", "1", "--out", str(tmp_path / "scans.json")]) == 0
    figures = json.loads((tmp_path / "scans.json").read_text(encoding="utf-8"))["milliseconds"]
    assert figures.keys() == scans.FORMS.keys() and "odd and even" in capsys.readouterr().out
