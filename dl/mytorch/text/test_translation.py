"""The task of translation: BLEU of whole sentences, and the search that is asked for."""

import pytest
import torch

from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary
from dl.mytorch.data.text.translation import RESERVED
from dl.mytorch.text.decoding import beam_search, greedy_search
from dl.mytorch.text.metrics import BLEU
from dl.mytorch.text.testing import BEGIN, END, PAD, Summing, sources, talkative
from dl.mytorch.text.translation import Translation, TranslationConfig


def test_bleu_counts_words_and_never_the_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabularies = {"source": Vocabulary([*RESERVED, *"ABCDEFGHIJKL"]), "target": Vocabulary([*RESERVED, *"abcdefghijkl"])}
    vocabulary, task, model = vocabularies["target"], Translation(vocabularies), Summing(16).eval()
    words = [[vocabulary[word] for word in row] for row in ("abcdef", "gh?ij")]
    target = torch.tensor([[BEGIN, *words[0], END], [BEGIN, *words[1], END, PAD]])
    batch = {"source": torch.tensor([[5, 6, END, PAD], [4, 5, 6, END]]), "target": target}
    monkeypatch.setattr(task, "translate", lambda model, source: words)
    metric = task.metrics()["bleu_error"]
    metric.update(task.eval_step(model, batch).outputs)
    expected = BLEU()
    expected.update({"hypotheses": ["abcdef", "gh?ij"], "references": [["abcdef"], ["gh-ij"]]})
    assert metric.compute() == pytest.approx(1 - expected.compute()) and 0.1 < metric.compute() < 0.9
    assert task.preview(model) == {
        "translations": "B C -> a b c d e f (reference: a b c d e f)\n\nA B C -> g h <unk> i j (reference: g h <unk> i j)"
    }
    assert "bleu_error" not in task.train_metrics()


def test_beams_choose_the_search() -> None:
    model, source = talkative(0), sources()
    vocabularies = dict.fromkeys(("source", "target"), Vocabulary([*RESERVED, *"abcdefghijkl"]))
    greedy, beam = (Translation(vocabularies, num_beams=num_beams).translate(model, source) for num_beams in (1, 3))
    assert greedy == greedy_search(model, source, bos_id=BEGIN, eos_id=END) != beam
    assert beam == beam_search(model, source, bos_id=BEGIN, eos_id=END, num_beams=3)


def test_a_translator_takes_published_pairs_and_own_ones_and_no_other_name() -> None:
    for data in ("fra-eng", "multi30k", "pairs:/somewhere/own.csv"):
        assert TranslationConfig(out="unused", data=data).data == data
    for data in ("latin", "pairs:"):
        with pytest.raises(UserError, match="--data has to be one of fra-eng, .*, or pairs:FILE"):
            TranslationConfig(out="unused", data=data)
