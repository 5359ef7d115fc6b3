"""Word2Vec: the loss by hand, each part of the drawing, vectors that find the sense of made-up words, the recipe."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.cli.runs import Run
from dl.modules.RNN.Word2Vec import data as drawing
from dl.modules.RNN.Word2Vec import neighbours as command
from dl.modules.RNN.Word2Vec import train
from dl.modules.RNN.Word2Vec.data import draw, keep_rare, texts, window_splits
from dl.modules.RNN.Word2Vec.model import Word2Vec, build
from dl.modules.RNN.Word2Vec.task import NegativeSampling, neighbours
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Splits, Vocabulary
from dl.mytorch.introspect import count_parameters, without_values

VOCABULARY = Vocabulary([f"w{i}" for i in range(16)])


def example() -> Batch:
    """Two words given, one of them missing in the second example; three to choose from."""
    inputs, candidates = torch.tensor([[1, 2], [3, 9]]), torch.tensor([[4, 0, 2], [5, 6, 6]])
    return {"inputs": inputs, "candidates": candidates, "padding": torch.tensor([[False, False], [False, True]])}


def randomized(model: Word2Vec) -> Word2Vec:
    """As after training: the vectors of the output are no longer 0."""
    nn.init.normal_(model.embedding.weight)
    nn.init.normal_(model.output.weight)
    return model


def test_the_loss_is_that_of_the_paper_by_hand() -> None:
    model = Word2Vec(4, 2)
    model.embedding.weight.data = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0], [9.0, 9.0]])
    model.output.weight.data = torch.tensor([[0.5, 0.5], [1.0, -1.0], [0.0, 2.0], [-1.0, 0.0]])
    batch = {"inputs": torch.tensor([[0, 1]]), "candidates": torch.tensor([[1, 2, 3]]), "padding": torch.zeros(1, 2).bool()}
    # The mean of (1, 2) and (3, 0) is (2, 1): products 1, 2 and -2 with the three candidates.
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-2))
    output = NegativeSampling(VOCABULARY).step(model, batch)
    assert output.loss.item() == pytest.approx(expected) == pytest.approx(2.5671158) and output.count == 1
    batch["padding"] = torch.tensor([[False, True]])  # skip-gram: (1, 2) alone, products -1, 4, -1
    expected = math.log(1 + math.exp(1)) + math.log(1 + math.exp(4)) + math.log(1 + math.exp(-1))
    assert NegativeSampling(VOCABULARY).step(model, batch).loss.item() == pytest.approx(expected)
    empty = {name: x[:0] for name, x in batch.items()}  # a rank may have no example
    assert NegativeSampling(VOCABULARY).step(model, empty).loss == 0


class PairTwin(nn.Module):
    """Word by word."""

    def __init__(self, model: Word2Vec) -> None:
        super().__init__()
        self.given, self.named = (nn.Parameter(p.detach().clone()) for p in model.parameters())

    def forward(self, inputs: Tensor, candidates: Tensor, padding: Tensor) -> Tensor:
        rows = []
        for words, wanted, missing in zip(inputs.tolist(), candidates.tolist(), padding.tolist()):
            vectors = [self.given[word] for word, none in zip(words, missing) if not none]
            rows.append(torch.stack([self.named[word] @ (sum(vectors) / len(vectors)) for word in wanted]))
        return torch.stack(rows)


def test_network_is_its_products_in_outputs_gradients_and_steps() -> None:
    model = randomized(build("tiny"))
    inputs = (example()["inputs"], example()["candidates"], example()["padding"])
    testing.assert_same_as(model, PairTwin(model), *inputs, tolerance=1e-10)
    torch.testing.assert_close(model(*inputs[:2])[:1], model(*inputs)[:1])  # without padding


def test_a_word_has_two_vectors() -> None:
    with without_values():
        assert {preset: count_parameters(build(preset)) for preset in ("google", "small")} == {
            "google": 2 * 692_000 * 300,
            "small": 2 * 20_000 * 100,
        }
    model = build("small")
    assert 0.00499 < model.embedding.weight.abs().max() <= 0.005 and not model.output.weight.any()
    assert model(torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 4, dtype=torch.long)).shape == (3, 4)


# ---- drawing -------------------------------------------------------------------------------------------------------


def drawn(objective: drawing.Objective, window: int = 3) -> tuple[Tensor, Batch]:
    ids = torch.arange(100) % 16
    transform = draw(ids, torch.arange(16), window, 4, objective)
    return ids, transform({"place": torch.arange(100)}, torch.Generator().manual_seed(0))


def test_cbow_is_given_the_words_within_a_reach_that_is_drawn() -> None:
    ids, batch = drawn("cbow")
    assert batch["inputs"].shape == batch["padding"].shape == (100, 6) and batch["candidates"].shape == (100, 5)
    assert torch.equal(batch["candidates"][:, 0], ids)
    reaches = Counter()
    for i in range(3, 97):
        given = batch["inputs"][i][~batch["padding"][i]].tolist()
        reach = len(given) // 2
        assert given == [*ids[i - reach : i].tolist(), *ids[i + 1 : i + 1 + reach].tolist()]
        reaches[reach] += 1
    assert set(reaches) == {1, 2, 3} and min(reaches.values()) > 15
    assert batch["padding"][0, :3].all() and batch["padding"][-1, 3:].all()  # nothing beyond the ends


def test_skipgram_makes_an_example_of_each_word_within_reach() -> None:
    _, cbow = drawn("cbow")
    ids, pairs = drawn("skipgram")
    expected = [(int(x), int(ids[i])) for i in range(100) for x, none in zip(cbow["inputs"][i], cbow["padding"][i]) if not none]
    assert list(zip(pairs["inputs"][:, 0].tolist(), pairs["candidates"][:, 0].tolist())) == expected
    assert not pairs["padding"].any() and pairs["candidates"].shape == (len(expected), 5)


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
def test_a_rank_without_a_place_of_the_last_batch_has_no_examples(objective: drawing.Objective) -> None:
    transform = draw(torch.arange(100) % 16, torch.arange(16), 3, 4, objective)
    batch = transform({"place": torch.arange(0)}, torch.Generator().manual_seed(0))
    assert batch["candidates"].shape == (0, 5) and len(batch["inputs"]) == len(batch["padding"]) == 0
    assert NegativeSampling(VOCABULARY).step(randomized(build("tiny")), batch).loss == 0


def test_negative_words_come_by_their_counts_to_the_power_of_three_quarters() -> None:
    counts = torch.tensor([0, 1, 16, 81])
    transform = draw(torch.ones(20_000, dtype=torch.long), counts, 1, 5, "cbow")
    batch = transform({"place": torch.arange(20_000)}, torch.Generator().manual_seed(0))
    shares = torch.bincount(batch["candidates"][:, 1:].flatten(), minlength=4) / 100_000
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 8.0, 27.0]) / 36, rtol=0, atol=0.01)


def test_frequent_words_are_thinned_out_by_the_root_of_their_frequency() -> None:
    ids = torch.tensor([0] * 9000 + [1] * 1000)
    kept = keep_rare(ids, torch.bincount(ids), 0.1, torch.Generator().manual_seed(0))
    counts = torch.bincount(kept)
    assert counts[0].item() == pytest.approx(9000 * (0.1 / 0.9) ** 0.5, rel=0.05) and counts[1] == 1000
    assert torch.equal(keep_rare(ids, torch.bincount(ids), 0.0, torch.Generator()), ids)


def test_texts_are_words_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "load", lambda name: "KING: O, 'tis I;\nthe king's 2 men-at-arms. " * 20)
    train_words, val, test = texts("shakespeare-sample")
    assert train_words[:10] == "king o tis i the king's men at arms king".split()
    assert len(train_words) == 162 and len(val) == len(test) == 9
    monkeypatch.setattr(drawing, "wikitext2_words", lambda split: "The <unk> king , 1999 <eos>".split())
    assert texts("wikitext2") == [["the", "king"]] * 3
    with pytest.raises(UserError, match="--data ptb: there are wikitext2, shakespeare, shakespeare-sample"):
        texts("ptb")


# ---- the recipe ----------------------------------------------------------------------------------------------------


SETTINGS = {"model": "tiny", "batch_size": 100, "lr": 0.1, "window": 3, "threshold": 0.0}


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences of animals and of numbers, which never meet; and one word that is rare."""
    chance = torch.Generator().manual_seed(0)
    senses = (["cat", "dog", "cow", "pig"], ["one", "two", "six", "ten"])
    words = [senses[s][i] for s in (0, 1) for i in torch.randint(4, (400,), generator=chance).tolist()]
    monkeypatch.setattr(drawing, "texts", lambda name: [["rare", *words], words[350:450], words[300:400]])


def made_up_splits(config: train.Config) -> Splits:
    return window_splits(config, config.objective, 3, 5, 5, 0.0)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(epochs=1, **SETTINGS),
    example,
    splits=made_up_splits,
    task=lambda: NegativeSampling(VOCABULARY),
    prepare=randomized,
    inputs=lambda: (example()["inputs"], example()["candidates"], example()["padding"]),
    overfit=[testing.Overfit(lr=0.1)],
)


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
def test_recipe_finds_the_sense_of_words(
    tmp_path: Path, no_figures: None, objective: drawing.Objective, capsys: pytest.CaptureFixture[str]
) -> None:
    config = train.Config(out=str(tmp_path), objective=objective, epochs=4, **SETTINGS)
    train.main(config, made_up_splits(config))
    run = Run.open(tmp_path)
    model, vocabulary = run.model(), run.vocabularies["tokens"]
    assert sorted(vocabulary.tokens) == sorted("cat dog cow pig one two six ten".split())
    lines = neighbours(model, vocabulary, ["cat", "two"], count=3)
    nearest = [{part.split()[0] for part in line.split(": ")[1].split(", ")} for line in lines]
    assert nearest == [{"dog", "cow", "pig"}, {"one", "six", "ten"}]
    assert NegativeSampling(vocabulary).preview(model)["neighbours"].startswith("two: ")
    capsys.readouterr()
    assert command.main([str(tmp_path), "--count", "3", "cat", "two"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert command.main([str(tmp_path), "rare"]) == 1
    assert "'rare' is not in the vocabulary" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "cat", "--count", "0"])
    assert "--count has to be at least 1; got 0" in capsys.readouterr().err


@pytest.mark.parametrize(("min_count", "threshold"), [(10**6, 0.0), (1, 1e-30)])
def test_texts_that_keep_no_words_are_refused(min_count: int, threshold: float) -> None:
    with pytest.raises(UserError, match="the training text keeps 0 words: too few"):
        window_splits(train.Config(), "cbow", 3, 5, min_count, threshold)


def test_recipe_refuses_impossible_flags() -> None:
    wrong = [("window", 0), ("window", 10**18), ("negatives", 0), ("negatives", 10**9), ("min_count", 0), ("threshold", -1.0)]
    for name, value in wrong:
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} has to be"):
            train.Config(**{name: value})
