"""Folders of published files that are older, newer or of other heads than those of test_convert.py."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dl.modules.Transformers.BERT.convert import from_folder
from dl.modules.Transformers.BERT.test_convert import CONFIG, publish, write_safetensors
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
        with pytest.raises(UserError, match="model.safetensors: the output layer has weights of its own"):
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
    (tmp_path / "config.json").write_text(json.dumps(early))
    assert str(from_folder(tmp_path)) == str(expected)  # activation, dropouts and what is added in norms too


def test_networks_that_are_not_the_paper_s_are_refused_in_a_line(tmp_path: Path) -> None:
    publish(tmp_path)
    for changes, message in (
        ({"hidden_act": "tanh"}, "config.json: hidden_act 'tanh' is none of gelu"),
        ({"is_decoder": True}, "config.json: a decoder"),
        ({"num_attention_heads": 3}, "config.json: .* 3"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
        with pytest.raises(UserError, match=message):
            from_folder(tmp_path)
