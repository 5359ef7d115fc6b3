"""Attention against the paper's formulas, word by word; padded, packed and one by one; its figures; the recipe."""

from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.RNN.BahdanauAttention import train
from dl.modules.RNN.BahdanauAttention.model import PRESETS, RNNSearch, build
from dl.modules.RNN.BahdanauAttention.task import AlignedTranslation
from dl.modules.RNN.testing import example, pairs_batch, splits
from dl.mytorch import load_weights, plot, testing
from dl.mytorch.data.text.translation import PairSplits, token_splits
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.names import renamed
from dl.mytorch.text.decoding import beam_search, greedy_search
from dl.mytorch.text.tasks import Seq2Seq as Seq2SeqTask
from dl.mytorch.text.testing import BEGIN, END, LENGTHS, sources, unambiguous


def randomized(model: RNNSearch) -> RNNSearch:
    """As after training: the alignment's vector is no longer 0."""
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / 2
    return model.eval()


class PaperTwin(nn.Module):
    """Appendix A, for each sentence, word and annotation by itself. The sums have torch's biases, the reset gate is after U."""

    def __init__(self, model: RNNSearch) -> None:
        super().__init__()
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())

    def unit(self, w: dict[str, Tensor], name: str, suffix: str, x: Tensor, state: Tensor) -> Tensor:
        r_x, z_x, n_x = (w[f"{name}.weight_ih{suffix}"] @ x + w[f"{name}.bias_ih{suffix}"]).chunk(3)
        r_h, z_h, n_h = (w[f"{name}.weight_hh{suffix}"] @ state + w[f"{name}.bias_hh{suffix}"]).chunk(3)
        z = torch.sigmoid(z_x + z_h)
        return (1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * state

    def forward(self, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        w = dict(zip(self.names, self.weights))
        return torch.stack([self.sentence(w, row[~padding], said) for row, said, padding in zip(source, target, mask)])

    def sentence(self, w: dict[str, Tensor], source: Tensor, target: Tensor) -> Tensor:
        words = [w["source_embedding.weight"][i] for i in source]
        states = {}
        for suffix, order in (("_l0", range(len(words))), ("_l0_reverse", reversed(range(len(words))))):
            state = w["init_state.bias"].new_zeros(len(w["init_state.bias"]))
            for j in order:
                state = states[suffix, j] = self.unit(w, "encoder", suffix, words[j], state)
        h = [torch.cat([states["_l0", j], states["_l0_reverse", j]]) for j in range(len(words))]
        s = torch.tanh(w["init_state.weight"] @ states["_l0_reverse", 0] + w["init_state.bias"])
        scores = []
        for i in target:
            y = w["embedding.weight"][i]
            moved = w["attention.query.weight"] @ s
            U, v = w["attention.key.weight"], w["attention.energy.weight"][0]
            e = [v @ torch.tanh(moved + U @ annotation) for annotation in h]
            alpha = [value.exp() / sum(other.exp() for other in e) for value in e]
            c = sum(weight * annotation for weight, annotation in zip(alpha, h))
            t = w["maxout.weight"] @ torch.cat([s, y, c]) + w["maxout.bias"]
            t = torch.stack([torch.maximum(t[2 * j], t[2 * j + 1]) for j in range(len(t) // 2)])
            scores.append(w["output.weight"] @ t + w["output.bias"])
            s = self.unit(w, "decoder", "", torch.cat([y, c]), s)
        return torch.stack(scores)


def test_padded_packed_and_one_by_one_runs_are_the_paper_s_formulas_in_outputs_gradients_and_steps() -> None:
    model = randomized(build("tiny"))
    source, target, mask = example()
    testing.assert_same_as(model, PaperTwin(model), source, target[:, :3], mask, tolerance=1e-9, steps=2)
    together = model(source, target, mask)
    for i, length in enumerate(LENGTHS):  # float32
        torch.testing.assert_close(together[i : i + 1], model(source[i : i + 1, :length], target[i : i + 1]), rtol=0, atol=2e-6)
    longer = [F.pad(x, (0, 4), value=value) for x, value in ((source, 9), (mask, True))]
    torch.testing.assert_close(model(longer[0], target, longer[1]), together)


def test_weights_sum_up_to_one_over_the_words_that_are_no_padding() -> None:
    model, (source, target, mask) = randomized(build("tiny")), example()
    weights = model.align(target, model.encode(source, mask), mask)[1]
    assert weights.shape == (3, 5, 6) and not weights[mask[:, None].expand_as(weights)].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 5))
    assert weights[0].std() > 0.01
    start = build("tiny")  # at first all words have the same weight
    weights = start.align(target, start.encode(source, mask), mask)[1]
    torch.testing.assert_close(weights, (~mask / (~mask).sum(1, keepdim=True))[:, None].expand_as(weights))


def test_networks_have_these_parameters() -> None:
    with without_values():
        counts = {preset: count_parameters(build(preset)) for preset in PRESETS}
    words, wide, n, m, align, out = 30_000, 2000, 1000, 620, 1000, 500  # appendix A.2.3 and B
    encoder, decoder = 2 * 3 * n * (m + n + 2), 3 * n * (m + wide + n + 2)
    attention = align * (n + wide + 1)
    output = 2 * out * (n + m + wide + 1) + words * (out + 1)
    assert counts["rnnsearch"] == 2 * words * m + encoder + n * (n + 1) + attention + decoder + output


@pytest.mark.parametrize("size", [(7, 1), (3, 9)])
def test_logits_have_one_row_per_target_token_which_depends_on_those_before(size: tuple[int, int]) -> None:
    model = randomized(build("tiny", vocabulary_size=11))
    source, target = torch.randint(4, 9, (2, size[0])), torch.randint(4, 9, (2, size[1]))
    assert model(source, target).shape == (2, size[1], 11)
    testing.assert_causal(lambda target: model(source, target), target.repeat(1, 2), target.repeat(1, 2) - 1, tolerance=1e-5)


def test_initial_weights_are_those_of_appendix_b() -> None:
    model = build("small")
    gate = model.decoder.weight_hh[:320]
    torch.testing.assert_close(gate @ gate.T, torch.eye(320), atol=1e-4, rtol=0)
    assert not model.attention.energy.weight.any() and not model.output.bias.any()
    for parameter, std in ((model.attention.key.weight, 0.001), (model.embedding.weight, 0.01)):
        assert parameter.std().item() == pytest.approx(std, rel=0.05)


def test_weights_under_the_earlier_name_of_the_initial_state_load() -> None:
    model = build("tiny")
    earlier = {name.replace("init_state", "first"): weight for name, weight in model.state_dict().items()}
    assert "first.bias" in earlier and renamed(model, earlier).keys() == model.state_dict().keys()


def test_searches_with_a_state_are_those_that_read_all_again() -> None:
    model = randomized(build("tiny"))
    source = sources()
    for never_ends, search in product((False, True), (greedy_search, partial(beam_search, num_beams=3))):
        if never_ends:
            model.output.bias.data[END] = -1e3
        found = [search(model, source, bos_id=BEGIN, eos_id=END, max_extra_tokens=6, cached=cached) for cached in (True, False)]
        assert found[0] == found[1] and (all(found[0]) or not never_ends)


@pytest.mark.slow
def test_some_bundled_pairs_are_overfitted() -> None:
    pairs = unambiguous()[::12]
    data = token_splits(train.Config(batch_size=31), PairSplits(pairs, pairs, pairs), min_count=1)
    task = AlignedTranslation(data.vocabularies)
    sizes = {"source_vocabulary_size": len(task.source), "vocabulary_size": len(task.target), "dim": 64, "hidden_dim": 96}
    model = build("small", **sizes, attention_dim=48, maxout_dim=64, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for epoch in range(130):
        for batch in data.train.batches(epoch):
            task.step(model, batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    metric = task.metrics()["bleu_error"]
    for batch in data.val.batches():
        metric.update(task.eval_step(model, batch).outputs)
    assert metric.compute() < 0.05


# ---- the recipe ----------------------------------------------------------------------------------------------------


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(model="tiny", epochs=1, batch_size=12, dropout=0.2),
    pairs_batch,
    splits=splits,
    task=Seq2SeqTask,
    prepare=randomized,
    inputs=example,
    overfit=[testing.Overfit({"hidden_dim": 24}, lr=3e-2, below=0.2)],
)


def test_recipe_draws_what_each_word_attended_to(tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple] = []
    monkeypatch.setattr(plot, "word_attention", lambda *given, **options: drawn.append(given))
    monkeypatch.setattr(plot, "to_tensor", lambda figure: torch.zeros(3, 2, 2))
    config = train.Config(out=str(tmp_path), model="tiny", steps=1, batch_size=12)
    data = splits(config)
    train.main(config, data)
    assert {"attention1.png", "attention2.png", "attention3.png"} <= {path.name for path in tmp_path.iterdir()}
    sizes = {"source_vocabulary_size": len(data.vocabularies["source"]), "vocabulary_size": len(data.vocabularies["target"])}
    model = load_weights(build("tiny", **sizes), tmp_path / "best.pt").eval()
    first = next(data.test.batches())["source"][0]
    words, attention = AlignedTranslation(data.vocabularies).aligned(model, first)
    weights, rows, columns = drawn[0]
    assert rows == words and columns == data.vocabularies["source"].decode(first) and columns[-1] == words[-1] == "<eos>"
    torch.testing.assert_close(weights[""], attention)
    assert attention.shape == (len(words), len(columns))
