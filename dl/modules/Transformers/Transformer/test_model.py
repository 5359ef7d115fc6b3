"""The Transformer against torch's, its laws, and the recipe."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dl.modules.Transformers.Transformer import train
from dl.modules.Transformers.Transformer.model import MultiHeadAttention, Transformer, build
from dl.modules.Transformers.Transformer.testing import splits
from dl.mytorch import Probe, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Vocabulary
from dl.mytorch.data.text.translation import RESERVED, PairSplits, token_splits
from dl.mytorch.introspect import count_parameters
from dl.mytorch.layers import FastDropout
from dl.mytorch.optim import adamw, noam
from dl.mytorch.text.testing import PAD, sources, unambiguous
from dl.mytorch.text.translation import Translation


def randomized(model: Transformer) -> Transformer:
    """As after training: nothing is 0 or 1 any more, so that everything shows in the output."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def example(target_length: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target and the source's padding mask."""
    source = sources()
    return source, torch.randint(1, 16, (3, target_length)), source == PAD


def letters() -> dict[str, Vocabulary]:
    """One vocabulary of 16 for both languages."""
    return dict.fromkeys(("source", "target"), Vocabulary([*RESERVED, *"abcdefghijkl"]))


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "dim", "heads", "hidden_dim", "count"),
    [("base", 512, 8, 2048, 63_082_496), ("big", 1024, 16, 4096, 214_245_376)],  # table 3 has 65 and 213 millions
)
def test_networks_of_table_3_have_these_parameters(preset: str, dim: int, heads: int, hidden_dim: int, count: int) -> None:
    with torch.device("meta"):
        model = build(preset)
    attention, norm = 4 * (dim * dim + dim), 2 * dim
    feed_forward = dim * hidden_dim + hidden_dim + hidden_dim * dim + dim
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    assert count_parameters(model) == count == 37_000 * dim + 6 * (encoder + decoder)
    assert {layer.num_heads for layer in model.modules() if isinstance(layer, MultiHeadAttention)} == {heads}


@pytest.mark.parametrize(("source_length", "target_length"), [(7, 1), (3, 9)])
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_logits_have_one_row_per_target_token(preset: str, source_length: int, target_length: int) -> None:
    source, target = torch.randint(4, 9, (2, source_length)), torch.randint(4, 9, (2, target_length))
    assert build(preset, vocabulary_size=11)(source, target).shape == (2, target_length, 11)


def test_the_feed_forward_is_four_times_as_wide_by_default() -> None:
    model = build("tiny", hidden_dim=None)
    assert {block.feed_forward.fc1.out_features for block in (*model.encoder, *model.decoder)} == {4 * 8}


# ---- torch ---------------------------------------------------------------------------------------------------------


class TorchTwin(nn.Module):
    """Our parameters, run through torch's code."""

    def __init__(self, model: Transformer, norm_first: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        options = {"dim_feedforward": 12, "dropout": 0.0, "norm_first": norm_first, "batch_first": True}
        # nn.Transformer itself has norms after encoder and decoder, which the paper lacks.
        norms = [nn.LayerNorm(8) if norm_first else None for _ in range(2)]
        layer = nn.TransformerEncoderLayer(8, 2, **options)
        encoder = nn.TransformerEncoder(layer, 2, norms[0], enable_nested_tensor=False)
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, **options), 2, norms[1])
        reference = nn.Transformer(8, 2, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
        self.reference = [reference]  # in a list: its own parameters do not count

    def named(self) -> Mapping[str, Tensor]:
        """Our parameters by torch's names."""
        layers, named = {"encoder.norm": self.model.encoder_norm, "decoder.norm": self.model.decoder_norm}, {}
        for stack in ("encoder", "decoder"):
            for i, block in enumerate(getattr(self.model, stack)):
                named |= {f"{stack}.layers.{i}.{name}": x for name, x in testing.torch_block_names(block).items()}
        return named | {f"{name}.{part}": x for name, layer in layers.items() for part, x in layer.named_parameters()}

    def forward(self, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        embedding, table = self.model.embedding.weight, self.model.positions.table
        inputs = tuple(8**0.5 * F.embedding(tokens, embedding) + table[: tokens.shape[1]] for tokens in (source, target))
        future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        masks = {"tgt_mask": future, "src_key_padding_mask": mask, "memory_key_padding_mask": mask}
        self.reference[0].train(self.training)
        return functional_call(self.reference[0], self.named(), inputs, masks) @ embedding.T


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_network_is_torch_s_in_outputs_gradients_and_steps(padded: bool, norm_first: bool, mode: str) -> None:
    model = randomized(build("tiny", norm_first=norm_first))
    source, target, mask = example(5 if padded else 8)
    inputs = (source, target, mask) if padded else (source + 1 - (source > 14).long(), target, torch.zeros_like(mask))
    twin = TorchTwin(model, norm_first)
    assert set(twin.named()) == set(dict(twin.reference[0].named_parameters()))
    testing.assert_same_as(model, twin, *inputs, train=mode == "train")


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_logit_depends_on_the_target_up_to_its_place(norm_first: bool) -> None:
    model = randomized(build("tiny", norm_first=norm_first))
    source, target, mask = example()
    testing.assert_causal(lambda target: model(source, target, mask), target, (target + 1) % 16, tolerance=1e-6)


def test_padding_does_not_change_logits() -> None:
    model, (source, target, mask) = randomized(build("tiny")).double(), example()
    expected = model(source, target, mask)
    other = torch.where(mask, 7, source)
    torch.testing.assert_close(model(other, target, mask), expected, rtol=0, atol=0)
    longer = [F.pad(x, (0, 4), value=value) for x, value in ((source, 9), (mask, True))]
    torch.testing.assert_close(model(longer[0], target, longer[1]), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(model(other, target), expected)


def test_a_source_may_have_a_vocabulary_and_an_embedding_of_its_own() -> None:
    shared, model = randomized(build("tiny")), build("tiny", source_vocabulary_size=20).eval()
    source, target, mask = example()
    weights = shared.state_dict() | {"source_embedding.weight": torch.cat([shared.embedding.weight, torch.ones(4, 8)])}
    model.load_state_dict(weights)
    torch.testing.assert_close(model(source, target, mask), shared(source, target, mask), rtol=0, atol=0)
    assert model(source + 4, target).shape == (3, 5, 16)
    model.embedding.weight.data += 1
    torch.testing.assert_close(model.encode(source, mask), shared.encode(source, mask), rtol=0, atol=0)


def test_positions_alone_tell_the_order_of_words() -> None:
    model, (source, target, _) = randomized(build("tiny")).double(), example()
    turned = source.flip(1)
    assert not torch.allclose(model(turned, target), model(source, target))
    model.positions.table.zero_()
    torch.testing.assert_close(model(turned, target), model(source, target), rtol=0, atol=1e-12)


def test_dropout_is_where_section_5_4_has_it() -> None:
    model = build("tiny", dropout=0.3)
    shares = {name: layer.p for name, layer in model.named_modules() if isinstance(layer, nn.Dropout)}
    stacks = [f"{stack}.{i}.dropout" for stack in ("encoder", "decoder") for i in range(2)]
    assert shares == dict.fromkeys(["dropout", *stacks], 0.3)
    model = build("tiny", dropout=1.0)
    with Probe(model, "dropout", "encoder.1", "decoder.1") as probe:
        model(*example())
    assert not any(probe[name].any() for name in ("dropout", "encoder.1", "decoder.1"))


def test_initialisation_is_that_of_the_paper_s_code() -> None:
    model = build("small", dim=256)
    assert model.embedding.weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    fc1, query = model.decoder[1].feed_forward.fc1, model.encoder[0].attention.query
    assert fc1.weight.abs().max().item() == pytest.approx((6 / (256 + 512)) ** 0.5, rel=0.01)
    assert query.weight.abs().max().item() == pytest.approx((6 / 512) ** 0.5, rel=0.01)
    assert not fc1.bias.any() and not query.bias.any()


def test_weights_and_moments_of_version_0_1_are_found_by_their_names() -> None:
    attention, feed_forward = ("query", "key", "value", "output"), ("fc1", "fc2")
    layers = {"embedding": "embedding"}
    for stack, parts in (("encoder", ["attention"]), ("decoder", ["self_attention", "cross_attention"])):
        for number, part in enumerate([*parts, "feed_forward"], start=1):
            for layer in feed_forward if part == "feed_forward" else attention:
                layers[f"{stack}.0.{part}.layer.{layer}"] = f"{stack}.0.{part}.{layer}"
            layers[f"{stack}.0.{part}.norm"] = f"{stack}.0.norm{number}"
    earlier = {f"{old}.{kind}": f"{new}.{kind}" for old, new in layers.items() for kind in ("weight", "bias")}
    del earlier["embedding.bias"]
    testing.assert_earlier_names_load(build("tiny", depth=1), earlier)


def test_what_the_model_has_no_place_for_is_refused() -> None:
    model, long, short = build("tiny", max_length=8), torch.ones(1, 9, dtype=torch.long), torch.ones(1, 8, dtype=torch.long)
    model(short, short)
    for source, target in ((long, short), (short, long)):
        with pytest.raises(ValueError, match="9 positions are asked for, the model has 8"):
            model(source, target)
    with pytest.raises(ValueError, match="dim 8 has to divide into num_heads 3"):
        build("tiny", num_heads=3)
    with pytest.raises(ValueError, match="padding_mask has to be bool"):
        model(short, short, short)


# ---- translation ---------------------------------------------------------------------------------------------------


def overfitted_bleu(pairs: list[tuple[str, str]], epochs: int, lr: float = 1.0, **sizes: Any) -> float:
    """BLEU of the translations of the very pairs that a Transformer of `sizes` was trained on."""
    config = train.Config(batch_size=64)
    data = token_splits(config, PairSplits(pairs, pairs, pairs), min_count=1, shared=True)
    task = Translation(data.vocabularies)
    model = build("small", vocabulary_size=len(task.target), dropout=0.0, **sizes)
    optimizer, schedule = adamw(1.0, 0.0, betas=(0.9, 0.98), eps=1e-9)(model), noam(model.dim, 60)
    batches = itertools.chain(*(data.train.batches(epoch) for epoch in range(epochs)))
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = lr * schedule(step, 0)
        task.step(model, batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    metric = task.metrics()["bleu_error"]
    for batch in data.val.batches():
        metric.update(task.eval_step(model, batch).outputs)
    return 1 - metric.compute()


@pytest.mark.slow
def test_some_bundled_pairs_are_overfitted() -> None:
    assert overfitted_bleu(unambiguous()[::12], epochs=60, dim=64, hidden_dim=128) > 0.95


@pytest.mark.parity  # for its length: a minute
def test_all_bundled_pairs_are_overfitted() -> None:
    assert overfitted_bleu(unambiguous(), epochs=70, lr=0.25) > 0.95


# ---- the recipe ----------------------------------------------------------------------------------------------------


def pairs_batch() -> Batch:
    source, target, _ = example()
    return {"source": source, "target": target}


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(model="tiny", epochs=1, batch_size=12, warmup=4),
    pairs_batch,
    splits=splits,
    task=lambda: Translation(letters(), label_smoothing=0.1),
    prepare=randomized,
    inputs=example,
    overfit=[testing.Overfit({"dropout": 0.0, "dim": 64, "depth": 1}, task=lambda: Translation(letters()), lr=3e-3)],
)


def test_the_rate_is_equation_3_and_history_holds_bleu_beside_the_losses(tmp_path: Path, no_figures: None) -> None:
    config = train.Config(out=str(tmp_path), model="tiny", epochs=2, batch_size=12, warmup=4)
    first, second, tested = train.main(config, splits(config))
    quantities = ["loss", "perplexity", "top1_error"]
    assert list(first["train"]) == quantities and sorted(first["val"]) == sorted(tested["test"]) == ["bleu_error", *quantities]
    assert second["lr"] == pytest.approx(0.3 * 8**-0.5 * min(6**-0.5, 6 * 4**-1.5))  # at the sixth step


def test_flags_reach_model_task_and_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.Trainer, "fit", lambda trainer, data: trainer)
    task = {"num_beams": 3, "label_smoothing": 0.2, "monitor": "bleu_error"}
    config = train.Config(model="tiny", dropout=0.3, lr=2.0, norm_first=True, shared=False, warmup=9, **task)
    trainer = train.main(config, splits(config, shared=False))
    assert {name: getattr(trainer.task, name) for name in task} == task
    settings = trainer.step.optimizer.defaults  # section 5.3
    assert (settings["lr"], settings["betas"], settings["eps"]) == (2.0, (0.9, 0.98), 1e-9)
    sizes = (trainer.model.source_embedding.num_embeddings, trainer.model.embedding.num_embeddings)
    assert sizes == (4 + 6, 4 + 7) and trainer.model.dropout.p == 0.3
    assert isinstance(trainer.model.encoder_norm, nn.LayerNorm)
    assert isinstance(trainer.model.encoder[0].dropout, FastDropout)
    rates = {name: train.schedule(replace(config, schedule=name)) for name in ("noam", "cosine", "constant")}
    assert rates["noam"](8, 100) == pytest.approx(8**-0.5 * 9**-0.5)  # the peak, at the ninth step
    assert rates["cosine"](9, 100) == 1 and rates["cosine"](8, 100) == 0.9 and rates["cosine"](100, 100) == 0
    assert rates["constant"](50, 100) == 1


def test_a_sentence_longer_than_the_network_is_refused_before_training(tmp_path: Path) -> None:
    pairs = [("a", "b")] * 4
    config = train.Config(out=str(tmp_path / "run"), model="tiny")
    for source, target in (("a " * 512, "b"), ("a", "b " * 511)):
        data = token_splits(config, PairSplits(pairs, pairs, [*pairs, (source, target)]), shared=True)
        with pytest.raises(UserError, match="the longest sentence has 513 words and marks; the network has 512 positions"):
            train.main(config, data)
    assert not (tmp_path / "run").exists()


def test_invalid_flags_are_refused() -> None:
    with pytest.raises(ValueError, match="--num-beams has to be at least 1; got 0"):
        train.Config(num_beams=0)
    with pytest.raises(ValueError, match="--num-beams has to be at most 1,000; got 1001"):
        train.Config(num_beams=1001)
    with pytest.raises(ValueError, match="--dropout has to be at least 0 and below 1; got 1.0"):
        train.Config(dropout=1.0)
