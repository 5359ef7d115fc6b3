"""The benchmark's own work: what it compares, and its ratios. The peers themselves are not installed here."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dl.benchmarks import gpt, gpt_peers
from dl.modules.GPT.Qwen3.model import build

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


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--nanogpt", "nowhere"], "no model.py there"),
        (["--model", "GPT/Qwen3", "--nanogpt", "."], "not for --model GPT/Qwen3"),
        (["--model", "GPT/Qwen3", "--network", "char_gpu"], "GPT/Qwen3 has no preset char_gpu"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        gpt.main(flags)
    assert says in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.parametrize("model", gpt.MODELS)
def test_the_benchmark_records_what_it_measured(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "model.py").write_text(PEER, encoding="utf-8")
    out = tmp_path / "results" / "gpt.json"
    flags = ["--model", model, "--network", "tiny", "--rounds", "2", "--texts", "1", "--no-compile", "--out", str(out)]
    nanogpt = ["--nanogpt", str(tmp_path)] if model == "GPT/GPT2" else []
    assert gpt.main([*nanogpt, *flags]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "load_average", "versions"} < record.keys() and record["model"] == model
    measured = record["tokens_per_second"]
    assert measured.keys() == {"training", "writing, batch 1", "writing, batch 16"}
    peers = {"transformers", *(["nanoGPT"] if nanogpt else [])}
    assert measured["training"].keys() - {"+ bf16"} == {"ours", *peers}
    for part in ("writing, batch 1", "writing, batch 16"):
        assert measured[part].keys() | record["skipped"].keys() == {"ours", "llama.cpp", *peers}
    assert all(speed > 0 for part in measured.values() for own in part.values() for speed in own)
    assert "of transformers" in capsys.readouterr().out


class FakeLibrary(SimpleNamespace):
    """The functions of llama_cpp that are called; token t is followed by t + 1."""

    def __init__(self) -> None:
        super().__init__(decoded=[], params=SimpleNamespace())
        nothing = lambda *_: None  # noqa: E731
        for name in ("llama_backend_init", "llama_model_default_params", "llama_model_load_from_file"):
            setattr(self, name, nothing)
        self.llama_get_memory = nothing
        self.llama_memory_clear = lambda *_: self.decoded.clear()
        self.llama_context_default_params = lambda: self.params
        self.llama_init_from_model = lambda weights, params: "context"

    def llama_batch_init(self, rows: int, embd: int, sequences: int) -> SimpleNamespace:
        fields = {name: [None] * rows for name in ("token", "pos", "logits", "n_seq_id")}
        self.batch = SimpleNamespace(**fields, seq_id=[[None] for _ in range(rows)])
        return self.batch

    def llama_decode(self, context: str, batch: SimpleNamespace) -> int:
        self.decoded.append((list(batch.token), list(batch.pos), [of[0] for of in batch.seq_id]))
        return 0

    def llama_get_logits_ith(self, context: str, row: int) -> list[float]:
        logits = [0.0] * 11
        logits[self.batch.token[row] + 1] = 1e4
        return logits


def test_llama_cpp_continues_each_row_as_a_sequence_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, "llama_cpp", library)
    monkeypatch.setattr("dl.modules.GPT.gguf.write", lambda *_: None)
    continued = gpt_peers.llama_cpp("GPT/Qwen3", build("tiny"), tmp_path, rows=2)
    assert (library.params.n_ctx, library.params.n_seq_max) == (2 * 16, 2)
    for _ in range(2):  # a second text begins from nothing
        assert continued(3).tolist() == [[1, 2, 3], [1, 2, 3]]
        assert library.decoded == [([place, place], [place, place], [0, 1]) for place in range(3)]
    with pytest.raises(LookupError, match="GPT/GPT2 is not exported to it"):
        gpt_peers.llama_cpp("GPT/GPT2", build("tiny"), tmp_path, rows=2)


def test_a_step_by_hand_learns() -> None:
    model = torch.nn.Linear(3, 1)
    step = gpt.step_by_hand(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda: model(torch.ones(2, 3)).square().mean())
    losses = [step() for _ in range(5)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
