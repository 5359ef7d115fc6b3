"""Translation: the next word for the loss, whole sentences for BLEU."""

from dataclasses import dataclass
from typing import Literal, Mapping

from torch import Tensor, nn

from dl.mytorch.config import TrainConfig, flag
from dl.mytorch.data import Batch, Vocabulary
from dl.mytorch.data.text.translation import OWN, SOURCES
from dl.mytorch.data.text.vocabulary import BEGIN, END, PADDING, UNKNOWN
from dl.mytorch.metrics import Metric
from dl.mytorch.tasks import StepOutput
from dl.mytorch.text.decoding import MOST_BEAMS, beam_search, greedy_search
from dl.mytorch.text.metrics import BLEUError
from dl.mytorch.text.tasks import Seq2Seq


@dataclass(frozen=True)
class TranslationConfig(TrainConfig):
    """What every recipe that trains a translator can be told beside."""

    data: str = flag(
        "fra-eng-sample",
        "fra-eng: English-French; fra-eng-d2l: those of the d2l book; fra-eng-sample: bundled ones; multi30k: German-English; "
        "pairs:FILE: own ones, a .csv, or lines with a tab between a sentence and its translation",
    )
    label_smoothing: float = flag(0.0, "label-smoothing epsilon")
    min_count: int = flag(2, "words that are rarer in the training pairs become <unk>")
    num_beams: int = flag(1, "beam of the search whose BLEU is recorded, 1 = greedy", alias="beams")
    monitor: Literal["loss", "bleu_error"] = flag("loss", "validation quantity that chooses the best checkpoint")
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.data in SOURCES or (self.data.startswith(OWN) and self.data != OWN)
        self._check("data", known, f"one of {', '.join(SOURCES)}, or {OWN}FILE")
        for name in ("min_count", "num_beams"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("num_beams", self.num_beams <= MOST_BEAMS, f"at most {MOST_BEAMS:,}")
        self._check("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")


class Translation(Seq2Seq):
    """`Seq2Seq` whose evaluation also translates every source: bleu_error, and some translations to read.

    `bleu_error` is 1 - BLEU of the words as the vocabulary has them, each sentence with its one reference. A word that it
    lacks is never right.

    Args:
        vocabularies: "source" and "target", which may be the same.
        num_beams: of the search, 1 for greedy search.
        monitor: the validation quantity that chooses the best checkpoint.
    """

    shown = 5

    def __init__(
        self, vocabularies: Mapping[str, Vocabulary], label_smoothing: float = 0.0, num_beams: int = 1, monitor: str = "loss"
    ) -> None:
        self.source, self.target = vocabularies["source"], vocabularies["target"]
        super().__init__(self.target[PADDING], label_smoothing)
        self.num_beams = num_beams
        self.monitor = monitor
        self.lines: list[str] = []

    def train_metrics(self) -> dict[str, Metric]:
        return super().metrics()  # training translates nothing

    def metrics(self) -> dict[str, Metric]:
        return {"bleu_error": BLEUError(), **super().metrics()}

    def begin_evaluation(self, model: nn.Module) -> None:
        self.lines = []

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = super().eval_step(model, batch)
        hypotheses = self.translate(model, batch["source"])
        unknown = self.target[UNKNOWN]
        # -1 is no token: <unk> stands for a word that is not known, and a translation of <unk> has not found it.
        references = [[[-1 if i == unknown else i for i in row]] for row in self._words(batch["target"])]
        if not self.lines:
            chosen = range(0, len(hypotheses), max(1, len(hypotheses) // self.shown))
            self.lines = [self._line(batch, i, hypotheses[i]) for i in chosen][: self.shown]
        return output._replace(outputs=output.outputs | {"hypotheses": hypotheses, "references": references})

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        """Return the first sentences of the last evaluation, under several ranks those of rank 0."""
        return {"translations": "\n\n".join(self.lines)}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        return self.preview(model)

    def translate(self, model: nn.Module, source: Tensor) -> list[list[int]]:
        """Return ids of the translations of source (B, S)."""
        ids = {"bos_id": self.target[BEGIN], "eos_id": self.target[END], "padding": self.padding}
        if self.num_beams == 1:
            return greedy_search(model, source, **ids)
        return beam_search(model, source, **ids, num_beams=self.num_beams)

    def _words(self, ids: Tensor) -> list[list[int]]:
        """Return rows (B, T) without padding, <bos> and <eos>."""
        frame = {self.padding, self.target[BEGIN], self.target[END]}
        return [[i for i in row if i not in frame] for row in ids.tolist()]

    def _line(self, batch: Batch, i: int, hypothesis: list[int]) -> str:
        source, reference = (self._words(batch[name][i : i + 1])[0] for name in ("source", "target"))
        found, wanted = (" ".join(self.target.decode(ids)) for ids in (hypothesis, reference))
        return f"{' '.join(self.source.decode(source))} -> {found} (reference: {wanted})"
