"""What the tests of BERT share."""

import json
import random
import struct
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dl.modules.Transformers.BERT.data import Paragraph
from dl.modules.Transformers.BERT.model import BERT, build

Model = TypeVar("Model", bound=nn.Module)

# Ours -> the published names, for one block.
PUBLISHED = {
    "token_embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings.weight",
    "segment_embedding": "bert.embeddings.token_type_embeddings",
    "norm": "bert.embeddings.LayerNorm",
    "blocks.0.attention.query": "bert.encoder.layer.0.attention.self.query",
    "blocks.0.attention.key": "bert.encoder.layer.0.attention.self.key",
    "blocks.0.attention.value": "bert.encoder.layer.0.attention.self.value",
    "blocks.0.attention.output": "bert.encoder.layer.0.attention.output.dense",
    "blocks.0.norm1": "bert.encoder.layer.0.attention.output.LayerNorm",
    "blocks.0.feed_forward.fc1": "bert.encoder.layer.0.intermediate.dense",
    "blocks.0.feed_forward.fc2": "bert.encoder.layer.0.output.dense",
    "blocks.0.norm2": "bert.encoder.layer.0.output.LayerNorm",
    "pooler.fc": "bert.pooler.dense",
    "nsp_head": "cls.seq_relationship",
    "mlm_head.bias": "cls.predictions.bias",
    "mlm_head.hidden": "cls.predictions.transform.dense",
    "mlm_head.norm": "cls.predictions.transform.LayerNorm",
}
CONFIG = {
    **{"model_type": "bert", "hidden_act": "gelu", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 32, "vocab_size": 12, "max_position_embeddings": 16, "type_vocab_size": 2},
    **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12},
}
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad film ##s , . the".split()
PADDING = torch.arange(9) >= torch.tensor([[9], [6], [3]])
TOKENS = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0)).masked_fill(PADDING, 0)
SEGMENTS = (torch.arange(9) >= torch.tensor([[4], [3], [2]])).long()
POSITIONS = torch.tensor([[1, 7, 3], [5, 1, 2], [2, 0, 1]])
INPUTS = (TOKENS, SEGMENTS, PADDING, POSITIONS)


def paragraphs(seed: int = 0, words: int = 20, count: int = 12) -> list[Paragraph]:
    """Made-up text: in a paragraph each word is the one after the word before it in the alphabet of `words` words."""
    chance = random.Random(seed)
    text = []
    for _ in range(count):
        at = chance.randrange(words)
        text.append([])
        for _ in range(chance.randint(2, 5)):
            size = chance.randint(2, 7)
            text[-1].append([f"w{(at + i) % words:02}" for i in range(size)])
            at += size
    return text


class Joined(nn.Module):
    """All outputs of a model as one tensor (B, ...); of the hidden states those of real tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, segments: Tensor, padding: Tensor, positions: Tensor) -> Tensor:
        mlm, nsp, hidden, pooled = self.model(tokens, segments, padding, positions)
        parts = [mlm, nsp, hidden.masked_fill(padding[..., None], 0), pooled]
        return torch.cat([part.flatten(1) for part in parts if part is not None], dim=1)


def randomized(model: Model) -> Model:
    """Return weights as after training, so that each shows in the output."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model


def tiny(**overrides: Any) -> BERT:
    return randomized(build("tiny", **overrides))


def publish(folder: Path) -> BERT:
    """Write the files of a small network as they are published; gives the network."""
    model = randomized(build("tiny", dim=8, depth=1, vocab_size=12, max_length=16))
    tensors = {}
    for name, weight in model.state_dict().items():
        known = name if name in PUBLISHED else name.rpartition(".")[0]
        theirs = PUBLISHED[known] + name.removeprefix(known)
        if "LayerNorm" in theirs:
            theirs = theirs.replace(".weight", ".gamma").replace(".bias", ".beta")
        tensors[theirs] = weight
    tensors["bert.embeddings.position_ids"] = torch.arange(16)
    write_safetensors(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return model


def write_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    numbers = b""
    for name, tensor in tensors.items():
        new = tensor.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(numbers), len(numbers) + len(new)]}
        numbers += new
    words = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + numbers)
