"""SFT: what is trained, by hand; where a training stops; and through its recipe."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dl.cli.evaluate import means_of
from dl.cli.runs import Run
from dl.modules.Alignment.sampling import answer_log_probs
from dl.modules.Alignment.SFT import train
from dl.modules.Alignment.SFT.model import build
from dl.modules.Alignment.SFT.task import SumTuning
from dl.modules.Alignment.sums import Sums
from dl.mytorch import TrainConfig, testing
from dl.mytorch.config import UserError
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.optim import adamw
from dl.mytorch.train_step import TrainStep

SUMS = Sums(2)
PAIRS = torch.tensor([[7, 35], [61, 0], [99, 4], [5, 5], [38, 12], [40, 44], [1, 2], [90, 17]])


def batch(count: int = 8) -> dict[str, torch.Tensor]:
    return {"pairs": PAIRS[:count], **SUMS.supervised(PAIRS[:count])}


def config(**flags: Any) -> train.Config:
    small = {"model": "tiny", "batch_size": 8, "steps": 3, "eval_every": 2, "eval_samples": 1}
    return train.Config(**{**small, "device": "cpu", "plots": False, **flags})


def test_the_loss_is_the_mean_over_the_answer_s_tokens_and_its_end_mark() -> None:
    torch.manual_seed(0)
    model = build("tiny").double()
    output = SumTuning(SUMS).step(model, batch())
    assert output.count == 8 * 4  # three digits and the end mark, of eight sums
    log_probs = answer_log_probs(model, SUMS.prompts(PAIRS), SUMS.answers(PAIRS))
    torch.testing.assert_close(output.loss, -log_probs.mean(), rtol=0, atol=1e-12)


def test_a_step_of_two_batches_of_unlike_length_is_that_of_both_together() -> None:
    """3 + 9 tokens of answers: each token counts once, not each batch."""
    whole = Sums(1).supervised(PAIRS[:4] % 10)
    parts = [{name: tensor[rows] for name, tensor in whole.items()} for rows in (slice(0, 1), slice(1, 4))]
    assert [int((part["targets"] != IGNORED).sum()) for part in parts] == [3, 9]
    gradients = []
    for batches in ([whole], parts):
        torch.manual_seed(0)
        model = build("tiny").double()
        step = TrainStep(model, SumTuning(SUMS), adamw(1e-3), TrainConfig("unused", "", device="cpu", accumulate=len(batches)))
        step.apply_gradients = lambda loss, found, optimizer: gradients.append([g.clone() for g in found])
        step(batches)
    for one, two in zip(*gradients):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-12)


def test_evaluation_counts_answers_that_are_wrong_in_any_token() -> None:
    """A model that knows every sum but one."""
    task = SumTuning(SUMS, samples=3)
    answers = SUMS.answers(PAIRS)
    answers[2, 0] = 7

    class Knows(torch.nn.Module):
        def new_cache(self) -> list[Any]:
            self.t = -1
            return []

        def forward(self, tokens: torch.Tensor, mask: None = None, cache: Any = None) -> torch.Tensor:
            self.t += 1
            one_hot = torch.nn.functional.one_hot(answers[:, self.t], 13).float() * 1e4
            return one_hot.repeat_interleave(len(tokens) // len(PAIRS), 0)[:, None]

    found = task.judge(Knows(), PAIRS)
    assert found["greedy_error"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert found["sampled_error"].shape == (3, 8) and found["sampled_error"].mean() == 1 / 8


def test_training_ends_at_the_first_evaluation_that_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = iter([0.05, 0.09, 0.11, 0.5, 0.5])  # of three evaluations, and a test each time

    def judge(self: SumTuning, model: Any, pairs: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict.fromkeys(("greedy_error", "sampled_error"), torch.tensor(1 - next(right)))

    monkeypatch.setattr(SumTuning, "judge", judge)
    own = config(out=str(tmp_path), steps=10, eval_every=1, save_every=10)
    history = train.main(own)
    assert [record["step"] for record in history] == [1, 2, 3, 3]  # the last is the test, of the best checkpoint
    assert history.best("sampled_error")["step"] == 3
    assert [record["step"] for record in train.main(own)] == [1, 2, 3, 3]  # started again, it is over


def test_a_run_is_tested_again(tmp_path: Path) -> None:
    history = train.main(config(out=str(tmp_path), steps=1))
    assert means_of(Run.open(tmp_path)) == history.test


def test_sums_of_a_checkpoint_are_shown_with_its_answers() -> None:
    lines = SumTuning(SUMS).preview(build("tiny").eval())["answers"].splitlines()
    assert len(lines) == 8 and all(line[2] == "+" and line[5] == "=" and len(line) == 10 for line in lines)


def test_an_invalid_value_names_its_flag() -> None:
    for flags, says in (({"until": 100.0}, "--until"), ({"digits": 0}, "--digits"), ({"eval_samples": 0}, "--eval-samples")):
        with pytest.raises(UserError, match=says):
            config(**flags)


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    batch,
    splits=lambda own: SUMS.splits(own.batch_size, own.seed),
    task=lambda: SumTuning(SUMS),
    inputs=lambda: (SUMS.prompts(PAIRS[:3]),),
    overfit=[testing.Overfit({"dim": 32})],
)


@pytest.mark.slow
def test_sums_are_learnt_and_those_held_out_are_right(tmp_path: Path) -> None:
    history = train.main(train.Config(out=str(tmp_path), until=0.0, steps=1000, eval_every=500, device="cpu", plots=False))
    assert history.test["greedy_error"] < 0.05
