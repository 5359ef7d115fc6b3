"""Folders of published files that are older, newer or of other heads than those of test_convert.py."""

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.modules.Transformers.BERT.convert import from_folder
from dl.modules.Transformers.BERT.testing import CONFIG, publish, write_safetensors
from dl.modules.Transformers.BERT.wordpiece import WordPiece
from dl.mytorch import testing
from dl.mytorch.checkpoint import load
from dl.mytorch.config import UserError


def add(folder: Path, weights: dict[str, Tensor]) -> None:
    """More weights into the file of `publish`."""
    path = folder / "model.safetensors"
    write_safetensors({**load(path), **weights}, path)


def test_an_output_layer_of_its_own_weights_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    state = load(tmp_path / "model.safetensors")
    decoder = {
        "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": state["cls.predictions.bias"],
    }
    add(tmp_path, decoder)
    assert from_folder(tmp_path).mlm_head is not None
    for name in decoder:
        add(tmp_path, {**decoder, name: decoder[name] + 1})
        with pytest.raises(UserError, match="model.safetensors: the output layer has separate weights"):
            from_folder(tmp_path)
        assert from_folder(tmp_path, heads=False).mlm_head is None  # has no output layer


def test_the_encoder_of_a_classifier_of_sentences(tmp_path: Path) -> None:
    publish(tmp_path)
    expected = from_folder(tmp_path, heads=False).state_dict()
    add(tmp_path, {"classifier.weight": torch.ones(3, 8), "classifier.bias": torch.ones(3)})
    testing.assert_same_state(dict(from_folder(tmp_path, heads=False).state_dict()), dict(expected), "weights")
    with pytest.raises(UserError, match="it has classifier.weight, which the model lacks"):
        from_folder(tmp_path)


def test_what_an_early_config_leaves_out_is_as_in_the_paper(tmp_path: Path) -> None:
    publish(tmp_path)
    expected = from_folder(tmp_path)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    early = {name: CONFIG[name] for name in (*sizes, "max_position_embeddings")}
    (tmp_path / "config.json").write_text(json.dumps(early), encoding="utf-8")
    assert str(from_folder(tmp_path)) == str(expected)  # activation, dropouts and what is added in norms too


def test_networks_that_are_not_the_paper_s_are_refused_in_a_line(tmp_path: Path) -> None:
    publish(tmp_path)
    for changes, message in (
        ({"hidden_act": "tanh"}, "config.json: hidden_act 'tanh' is none of gelu"),
        ({"is_decoder": True}, "config.json: a decoder"),
        ({"num_attention_heads": 3}, "config.json: .* 3"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            from_folder(tmp_path)


# ---- folders from somebody else ------------------------------------------------------------------------------------


WRONG = ("x", [], None, True, math.nan, 10**30, 10**8, 10**6, 1.5, -1, 0)


def test_a_config_with_any_other_value_is_refused_in_a_line(tmp_path: Path) -> None:
    """Before it takes memory; but shares may be 0, and what is left out is as in the paper."""
    publish(tmp_path)
    path = tmp_path / "config.json"
    for field in CONFIG:
        for value in WRONG:
            path.write_text(json.dumps(CONFIG | {field: value}), encoding="utf-8")
            if value != 0 or not isinstance(CONFIG[field], float):
                with pytest.raises(UserError, match="config.json") as said:
                    from_folder(tmp_path)
                assert "\n" not in str(said.value) and len(str(said.value)) < 400
    path.write_text(json.dumps({"num_hidden_layers": 1}), encoding="utf-8")
    with pytest.raises(UserError, match="config.json: a network of .* parameters is more than twice as large"):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{name}.json", text) for name in ("config", "tokenizer_config", "tokenizer") for text in ("[]", "", "[" * 10**5)),
        *(("tokenizer_config.json", json.dumps({"do_lower_case": value})) for value in (None, 1, "no")),
        *(("tokenizer.json", f'{{"model": {{"type": "WordPiece", "vocab": {ids}}}}}') for ids in ("3", '{"a": ""}', "[null]")),
        ("tokenizer.json", '{"model": []}'),
        ("tokenizer.json", '{"model": {"type": "WordPiece", "vocab": {"a": 1e999}}}'),
    ],
    ids=lambda content: content[:40],
)
def test_other_files_with_other_content_are_refused_in_a_line(tmp_path: Path, name: str, content: str) -> None:
    publish(tmp_path)
    if name == "tokenizer.json":
        (tmp_path / "vocab.txt").unlink()
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"{name}.*") as said:
        from_folder(tmp_path)
        WordPiece.load(tmp_path)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "F99"}, {"dtype": 3}, {"shape": [3]}, {"shape": [-12, -8]}, {"shape": "x"}]
    + [{"data_offsets": value} for value in ([0], [0, 10**30], [-8, -4], [5, 1], "ab", None)]
    + [None],
    ids=str,
)
def test_an_altered_header_of_weights_is_refused_in_a_line(tmp_path: Path, changes: dict[str, Any] | None) -> None:
    publish(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    name = "bert.embeddings.word_embeddings.weight"
    header[name] = None if changes is None else header[name] | changes
    words = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + content[8 + size :])
    with pytest.raises(UserError, match="model.safetensors") as said:
        from_folder(tmp_path)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json"]
)
def test_folders_and_pipes_in_place_of_files_are_refused(tmp_path: Path, name: str) -> None:
    publish(tmp_path)
    if name == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
    for make, kind in ((os.mkdir, "a folder"), (getattr(os, "mkfifo", None), "a device or pipe")):
        path = tmp_path / name
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if make is not None:  # Windows has no pipes of this kind
            make(path)
            with pytest.raises(UserError, match=f"{name} is {kind}, not a file"):
                from_folder(tmp_path)
                WordPiece.load(tmp_path)


def test_weights_that_are_no_dict_of_tensors_are_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for content in ([torch.ones(3)], {"bert.embeddings.word_embeddings.weight": [1, 2]}, torch.ones(3), {3: 4}):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match="pytorch_model.bin does not hold the weights of a model"):
            from_folder(tmp_path)
