"""Sums: their text by hand, the parts that do not meet, the verifier, the curriculum."""

import pytest
import torch

from dl.modules.Alignment.sums import TOKENS, Sums
from dl.mytorch.config import UserError
from dl.mytorch.data.sequences import IGNORED


def text(ids: torch.Tensor) -> str:
    return "".join(TOKENS.decode(ids))


def test_prompts_are_of_fixed_width_and_answers_are_reversed_with_an_end_mark() -> None:
    pairs = torch.tensor([[7, 35], [99, 99], [0, 0]])
    sums = Sums(2)
    assert [text(row) for row in sums.prompts(pairs)] == ["07+35=", "99+99=", "00+00="]
    assert [text(row) for row in sums.answers(pairs)] == ["240.", "891.", "000."]
    assert text(Sums(3).prompts(torch.tensor([7, 350]))) == "007+350=" and text(Sums(1).answers(torch.tensor([7, 5]))) == "21."


def test_only_the_answer_and_its_end_mark_are_targets() -> None:
    batch = Sums(2).supervised(torch.tensor([[7, 35]]))
    assert text(batch["tokens"][0]) == "07+35=240"
    assert batch["targets"][0].tolist() == [IGNORED] * 5 + TOKENS.encode("240.")


def test_no_held_out_sum_is_in_another_part_in_any_order() -> None:
    for digits in (1, 2):
        sums = Sums(digits)
        parts = [{(min(pair), max(pair)) for pair in sums.pairs(part).tolist()} for part in ("train", "val", "test")]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(parts[0] | parts[1] | parts[2]) == sums.largest * (sums.largest + 1) // 2
    assert len(parts[1]) == len(sums.pairs("val")) == len(sums.pairs("test")) == 200
    assert sums.pairs("val").equal(Sums(2).pairs("val"))


def test_an_answer_is_right_when_every_token_is() -> None:
    sums, pairs = Sums(2), torch.tensor([7, 35]).repeat(4, 1)
    answers = torch.tensor([TOKENS.encode(answer) for answer in ("240.", "2400", "241.", "42..")])
    assert sums.right(pairs, answers).tolist() == [True, False, False, False]


def test_the_curriculum_cuts_numbers_to_their_last_digits_but_to_no_held_out_sum() -> None:
    sums = Sums(2)
    pairs = sums.pairs("train")
    eased = sums.eased(pairs)
    assert eased[1::2].equal(pairs[1::2])
    assert not sums.held_out[eased[:, 0], eased[:, 1]].any()
    cut = pairs[::2] % 10
    stays = sums.held_out[cut[:, 0], cut[:, 1]]
    assert eased[::2].equal(torch.where(stays[:, None], pairs[::2], cut)) and stays.any()


def test_batches_have_pairs_tokens_and_targets() -> None:
    splits = Sums(2).splits(128, seed=0)
    batch = next(splits.train.batches())
    assert batch["pairs"].shape == (128, 2) and batch["tokens"].shape == batch["targets"].shape == (128, 9)
    assert len(splits.val) == len(splits.test) == 1
    with pytest.raises(UserError, match="1 to 3 digits"):
        Sums(4)
