"""CLIP: hand-worked losses, where a text is read, the scale; towers of both kinds through the recipe."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Multimodal.CLIP import train
from dl.modules.Multimodal.CLIP.data import pair_splits, split
from dl.modules.Multimodal.CLIP.loss import clip_loss, siglip_loss
from dl.modules.Multimodal.CLIP.model import CLIP, PRESETS, Embedded, TextBag, build
from dl.modules.Multimodal.CLIP.task import ClippedStep, Contrastive
from dl.modules.Multimodal.CLIP.tokens import END, byte_ids, padded, pieces, tokenizer
from dl.mytorch import testing
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Batch, Splits
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.optim import sgd
from dl.mytorch.tasks import StepOutput


class Embeddings(nn.Module):
    """A CLIP whose output has a row for each pair."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pairs = self.model(images, tokens)
        return pairs.image, pairs.text


# ---- the losses ----------------------------------------------------------------------------------------------------


def scored(logits: Any, bias: float | None = None) -> Embedded:
    """Return pairs with these scores."""
    images = torch.tensor(logits, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return Embedded(images, torch.eye(len(images), dtype=torch.float64), one, None if bias is None else bias * one)


def test_losses_have_the_worked_values() -> None:
    logits = ((2, 0, 1), (0, 1, 0), (1, 0, 3))
    assert clip_loss(scored(logits)).item() == pytest.approx(0.376298899310906, abs=1e-14)
    assert siglip_loss(scored(logits, 0.0)).item() == pytest.approx(1.962629715803722, abs=1e-14)


@pytest.mark.parametrize(("count", "loss"), [(3, 10.000136), (256, 10.011622)])
def test_siglip_begins_at_a_loss_of_10_whatever_the_batch(count: int, loss: float) -> None:
    """Divided by the batch twice it would be 3.3 and 0.04."""
    assert siglip_loss(scored(torch.zeros(count, count).tolist(), -10.0)).item() == pytest.approx(loss, abs=5e-7)
    model = build("tiny", siglip=True)
    assert (model.log_scale.exp().item(), model.bias.item()) == (pytest.approx(10), -10)


# ---- where a text is read ------------------------------------------------------------------------------------------


def test_a_text_is_read_at_its_first_end_whatever_ids_are_larger_and_what_follows() -> None:
    text = build("tiny", text={"vocab_size": 300, "max_length": 9, "eos_id": END, "dim": 16, "depth": 2, "num_heads": 2})
    model = text.double().eval()
    short = torch.tensor([[256, 104, 299, 105, END]])
    expected = model.encode_texts(short)
    for end in ([0, 0, 0, 0], [END, END, 0, 7], [299, 299, 1, END]):
        longer = torch.cat([short, torch.tensor([end])], dim=1)
        torch.testing.assert_close(model.encode_texts(longer), expected, rtol=0, atol=1e-12)
    assert not torch.equal(model.encode_texts(torch.tensor([[256, 104, END, 105, END]])), expected)


def test_a_bag_is_the_mean_of_its_pieces_and_padding_none_of_them() -> None:
    model = build("tiny_cnn").eval()
    alone, beside = model.encode_texts(padded([[3, 4, 4]])), model.encode_texts(padded([[3, 4, 4], [1, 2, 3, 4, 5, 6]]))
    torch.testing.assert_close(beside[:1], alone)
    weight = model.text.embedding.weight
    torch.testing.assert_close(model.text.embedding(torch.tensor([[3, 4, 4, 0]]))[0], (weight[3] + 2 * weight[4]) / 3)


def test_in_training_pieces_are_left_out_and_in_evaluation_none() -> None:
    bag = TextBag(10, 4, 4, dropout=0.5)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    assert torch.equal(bag.eval()(tokens), bag(tokens))
    bag.train()
    assert not torch.equal(bag(tokens), bag(tokens))
    bag.dropout = 1.0
    torch.testing.assert_close(bag(tokens), bag(torch.zeros_like(tokens)))


def test_bytes_are_cut_before_the_end_which_is_always_there() -> None:
    assert byte_ids("hé", 8) == [256, 104, 195, 169, 257]
    assert byte_ids("abcdefgh", 5) == [256, 97, 98, 99, 257]


def test_pieces_are_those_of_words_and_do_not_go_across_phrases() -> None:
    assert len(pieces("ab", 100)) == 2 + 3 + 2 + 1  # a b, <a ab b>, <ab ab>, <ab>
    assert pieces("Red circle, 红圆", 1000) == pieces("red circle", 1000) + pieces("红圆", 1000)
    assert pieces("circle red", 1000) != pieces("red circle", 1000) == pieces("red  circle", 1000)
    assert all(1 <= number < 50 for number in pieces("a very long name indeed", 50))
    assert pieces("", 50) == []


def test_a_network_with_the_paper_s_vocabulary_takes_ids_only() -> None:
    with without_values(), pytest.raises(UserError, match="vocabulary is not here"):
        tokenizer(build("vit_b_32").text)


def test_the_paper_s_network_has_151_277_313_parameters() -> None:
    with without_values():
        assert count_parameters(build("vit_b_32")) == 151_277_313


# ---- the scale -----------------------------------------------------------------------------------------------------


class Grow(Contrastive):
    """The larger the scale, the better."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return StepOutput(-model(batch["images"], batch["tokens"]).scale.sum(), 1, {})


def test_the_scale_begins_at_1_over_0_07_and_is_at_most_100_after_a_step() -> None:
    model = build("tiny")
    assert model.log_scale.exp().item() == pytest.approx(1 / 0.07)
    step = ClippedStep(model, Grow(), sgd(1e4), TrainConfig("unused", "", device="cpu"))
    step([pairs(2)])
    assert model.log_scale.exp().item() == pytest.approx(100)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def pairs(count: int, size: int = 16) -> Batch:
    """Return noise of 16 pixels, each with three letters."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=generator)
    texts = [chr(97 + i) * 3 for i in range(count)]
    return {"images": images, "tokens": padded([byte_ids(text, 9) for text in texts])}


def config(**flags: Any) -> train.Config:
    return train.Config(**{"data": "emoji-sample", "model": "tiny", "steps": 3, "eval_every": 2, "batch_size": 6, **flags})


def splits(config: train.Config) -> Splits:
    return pair_splits(config, tokenizer(train.build_model(config).text), split(config, 16))


def test_forward_passes_of_one_step_are_refused_since_their_pairs_would_not_meet() -> None:
    with pytest.raises(UserError, match="--accumulate"):
        config(accumulate=2)
    with pytest.raises(UserError, match="--zoom"):
        config(zoom=-0.1)


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_every_parameter_of_both_losses_gets_a_gradient(loss: str) -> None:
    task = Contrastive(loss == "siglip")
    testing.assert_gradients_flow(build("tiny", siglip=loss == "siglip"), pairs(4), task)


def test_a_run_leaves_recalls_of_both_languages_and_pages_of_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dl.modules.Multimodal.CLIP.task.retrieved", lambda found, emoji, language: torch.zeros(3, 4, 4))
    seen: dict[str, Any] = {}
    monkeypatch.setattr("dl.mytorch.logger.Logger.finished", lambda self, history, shown, *_: seen.update(shown))
    history = train.main(config(out=str(tmp_path), model="tiny_cnn"))
    ways = ("image_to_en", "en_to_image", "image_to_zh", "zh_to_image")
    errors = {f"{way}_top{k}_error" for way in ways for k in (1, 5)}
    assert history.test.keys() == errors | {"loss", "retrieval_error"}
    assert history.test["retrieval_error"] == pytest.approx(sum(history.test[name] for name in errors) / 8)
    assert seen.keys() == {"categories", "retrieved_en", "retrieved_zh"}
    assert seen["categories"].splitlines()[1].startswith("all (")


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    lambda: pairs(4),
    splits=splits,
    task=Contrastive,
    variants=[{}, PRESETS["tiny_cnn"]],
    inputs=lambda: tuple(pairs(3).values()),
    output=lambda model: Embeddings(model),
    overfit=[testing.Overfit(lr=1e-2, below=0.05)],
)
