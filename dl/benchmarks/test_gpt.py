"""The benchmark's own work: what it compares, and its ratios. The peers themselves are not installed here."""

import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import gpt

PEER = '''
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    bias: bool = True


class GPT(nn.Module):
    """Called as nanoGPT's is."""

    def __init__(self, config):
        super().__init__()
        print("number of parameters")
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def configure_optimizers(self, weight_decay, lr, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)

    def forward(self, tokens, targets):
        logits = self.table(tokens)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def generate(self, tokens, count):
        return tokens.new_zeros(len(tokens), tokens.shape[1] + count)
'''


def test_a_folder_without_nanogpt_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        gpt.main(["--nanogpt", str(tmp_path)])
    assert "no model.py there" in capsys.readouterr().err


@pytest.mark.parity
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "model.py").write_text(PEER, encoding="utf-8")
    out = tmp_path / "results" / "gpt.json"
    flags = ["--network", "tiny", "--rounds", "2", "--texts", "1", "--no-compile", "--out", str(out)]
    gpt.main(["--nanogpt", str(tmp_path), *flags])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "load_average", "versions"} < record.keys()
    assert record["tokens_per_second"].keys() == {"training", "writing, batch 1", "writing, batch 16"}
    assert record["tokens_per_second"]["training"].keys() == {"nanoGPT", "transformers", "ours", "+ bf16"}
    assert all(speed > 0 for part in record["tokens_per_second"].values() for own in part.values() for speed in own)
    assert "of transformers" in capsys.readouterr().out


def test_a_step_by_hand_learns() -> None:
    model = torch.nn.Linear(3, 1)
    step = gpt.step_by_hand(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda: model(torch.ones(2, 3)).square().mean())
    losses = [step() for _ in range(5)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
