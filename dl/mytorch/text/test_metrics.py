"""Perplexity and BLEU against numbers worked by hand, and the same number however the corpus is cut."""

import math
import random

import pytest
import torch

from dl.mytorch.data import Batch
from dl.mytorch.metrics import Metric
from dl.mytorch.text.metrics import BLEU, BLEUError, Perplexity, sentence_bleu


def value(metric: Metric, *batches: Batch) -> float:
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def test_perplexity_is_exp_of_the_mean_loss_per_token() -> None:
    metric = Perplexity()
    metric.update({"loss": torch.tensor(math.log(2.0)), "count": 3})
    metric.update({"loss": torch.tensor(math.log(16.0)), "count": torch.tensor(1)})
    assert metric.compute() == pytest.approx(2 ** (7 / 4))  # (3 ln 2 + 4 ln 2) / 4


def test_perplexity_of_a_model_that_is_lost_is_infinite() -> None:
    assert value(Perplexity(), {"loss": torch.tensor(1000.0), "count": 1}) == math.inf


def bleu(hypotheses: list[str], references: list[list[str]], max_n: int = 4) -> float:
    cut = [[reference.split() for reference in several] for several in references]
    return value(BLEU(max_n), {"hypotheses": [hypothesis.split() for hypothesis in hypotheses], "references": cut})


CAT = ["the cat is on the mat", "there is a cat on the mat"]
# Examples 1 and 2 of the paper (section 2.1).
CANDIDATE_1 = "it is a guide to action which ensures that the military always obeys the commands of the party"
CANDIDATE_2 = "it is to insure the troops forever hearing the activity guidebook that party direct"
PARTY = [
    "it is a guide to action that ensures that the military will forever heed party commands",
    "it is the guiding principle which guarantees the military forces always being under the command of the party",
    "it is the practical guide for the army always to heed the directions of the party",
]


@pytest.mark.parametrize(
    ("hypothesis", "references", "max_n", "expected"),
    [
        ("the the the the the the the", CAT, 1, 2 / 7),  # example 2: clipped at the largest count in one reference
        (CANDIDATE_1, PARTY, 1, 17 / 18),
        (CANDIDATE_2, PARTY, 1, 8 / 14 * math.exp(1 - 16 / 14)),  # the nearest reference has 16 words
        (CANDIDATE_1, PARTY, 2, math.sqrt(17 / 18 * 10 / 17)),
        (CANDIDATE_2, PARTY, 2, math.sqrt(8 / 14 * 1 / 13) * math.exp(1 - 16 / 14)),
        ("the the the the the the the", CAT, 2, 0.0),
    ],
)
def test_bleu_of_the_paper_s_examples(hypothesis: str, references: list[str], max_n: int, expected: float) -> None:
    assert bleu([hypothesis], [references], max_n) == pytest.approx(expected)


def test_bleu_by_hand_counts_over_the_corpus_before_it_divides() -> None:
    # 1-grams 4/4 and 2/3, 2-grams 3/3 and 0/2; 7 words for 4 + 5: neither mean of sentences nor of penalties.
    hypotheses, references = ["a b c d", "x e g"], [["a b c d"], ["e x f f f"]]
    assert bleu(hypotheses, references, 2) == pytest.approx(math.exp(1 - 9 / 7) * math.sqrt(6 / 7 * 3 / 5))


def test_bleu_of_the_truth_is_1_and_longer_hypotheses_have_no_penalty_but_precision() -> None:
    assert bleu(["a b c d e"], [["a b c d e"]]) == 1
    assert bleu(["a b c d e"], [["a b c d"]]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_the_penalty_is_about_the_nearest_reference_of_two_as_near_the_shorter() -> None:
    assert bleu(["a b c"], [["a b c d", "a"]], 1) == pytest.approx(math.exp(1 - 4 / 3))
    assert bleu(["a b c"], [["a b c d", "a b"]], 1) == 1  # 4 would give exp(1 - 4/3)


def test_bleu_without_right_ngrams_is_0_and_of_nothing_nan() -> None:
    assert bleu(["a b c"], [["a b c"]]) == 0  # too short for a 4-gram
    assert bleu([""], [["a b c d"]]) == 0
    assert math.isnan(BLEU().compute())


def test_bleu_is_the_same_for_any_split_and_its_error_is_the_rest() -> None:
    words, rng = "ab", random.Random(0)
    hypotheses = [[rng.choice(words) for _ in range(rng.randint(0, 9))] for _ in range(60)]
    references = [[[rng.choice(words) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(1, 3))] for _ in range(60)]
    whole = value(BLEU(), {"hypotheses": hypotheses, "references": references})
    assert 0 < whole < 1
    for size in (1, 7, 59):
        parts = [{"hypotheses": hypotheses[i : i + size], "references": references[i : i + size]} for i in range(0, 60, size)]
        assert value(BLEU(), *parts) == pytest.approx(whole, rel=1e-12)
        assert value(BLEUError(), *parts) == pytest.approx(1 - whole, rel=1e-12)


@pytest.mark.parity
def test_bleu_is_sacrebleu_s_of_the_same_tokens() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(0)

    def sentence(shortest: int) -> str:
        return " ".join(rng.choice("abcd") for _ in range(rng.randint(shortest, 12)))

    scores = []
    for several in (1, 2, 4):
        for size in (1, 5, 80):
            hypotheses = [sentence(0) for _ in range(size)]
            references = [[sentence(1) for _ in range(several)] for _ in range(size)]
            for max_n in (1, 2, 4):
                metric = sacrebleu.BLEU(tokenize="none", smooth_method="none", max_ngram_order=max_n, force=True)
                expected = metric.corpus_score(hypotheses, [list(stream) for stream in zip(*references)]).score / 100
                assert bleu(hypotheses, references, max_n) == pytest.approx(expected, abs=1e-9)
                scores.append(expected)
    assert sum(0.1 < score < 1 for score in scores) > 15


@pytest.mark.parametrize("references", [[], [[]], [["a"], ["b"]]])
def test_hypotheses_without_references_are_refused(references: list) -> None:
    with pytest.raises(ValueError, match="1 hypotheses need a list of references each"):
        BLEU().update({"hypotheses": [["a"]], "references": references})


@pytest.mark.parametrize(
    ("hypothesis", "reference", "max_n", "expected"),
    [
        ("va !", "va !", 2, 1.0),
        ("j'ai perdu .", "j'ai perdu .", 2, 1.0),
        (
            "A B B C D",
            "A B C D E F",
            2,
            math.exp(-1 / 5) * math.sqrt(4 / 5) * (3 / 4) ** 0.25,
        ),  # the book's example of precisions
        ("il est mouille .", "il est calme .", 2, math.sqrt(3 / 4) * (1 / 3) ** 0.25),
        ("va", "va !", 2, math.exp(-1)),  # no 2-gram in it: only 1-grams count
        ("", "va !", 2, 0.0),
        ("non", "va !", 2, 0.0),
    ],
)
def test_the_book_s_bleu_of_a_sentence(hypothesis: str, reference: str, max_n: int, expected: float) -> None:
    assert sentence_bleu(hypothesis.split(), reference.split(), max_n) == pytest.approx(expected)
