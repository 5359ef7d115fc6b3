"""Log-probabilities of answers, the task, pairs that a policy draws, and the recipe."""

import dataclasses
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.cli.runs import Run
from dl.modules.Alignment.DPO import data, drawing, train
from dl.modules.Alignment.DPO.data import FILE, pair_splits, tensors
from dl.modules.Alignment.DPO.drawing import drawn_pairs
from dl.modules.Alignment.DPO.model import build
from dl.modules.Alignment.DPO.pairs import Ids, Pair, batch_of
from dl.modules.Alignment.DPO.task import Preferences, answers, with_reference
from dl.modules.Alignment.recipe import start
from dl.modules.Alignment.SFT import train as sft
from dl.modules.Alignment.sums import TOKENS, Sums
from dl.modules.GPT.GPT2 import train as gpt2
from dl.modules.GPT.lora import adapt
from dl.mytorch import TrainConfig, testing
from dl.mytorch.checkpoint import save
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Splits, Vocabulary
from dl.mytorch.files import write_json
from dl.mytorch.testing.processes import assert_kills_change_nothing
from dl.mytorch.testing.runs import forget

SUMS = Sums(2)
NUMBERS = [[7, 35], [61, 0], [99, 4], [5, 5], [40, 41]]


def pairs(part: str = "train") -> list[Pair]:
    """Return right and wrong sums, made by hand."""
    texts = [(f"{a:02}+{b:02}=", f"{a + b:03}"[::-1]) for a, b in NUMBERS]
    return [
        Pair(prompt, f"{answer}.", wrong, part) for prompt, answer in texts for wrong in (f"9{answer[1:]}.", answer[:2] + ".")
    ]


def batch(config: Any = None, model: nn.Module | None = None) -> Batch:
    return tensors(pairs(), TOKENS, [], model or policy(), config or settings(loss="kto"))


def policy(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    model = build("tiny")
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def settings(folder: Path | str = "unused", **changes: Any) -> train.Config:
    small = {"epochs": 1, "batch_size": 4, "lr": 1e-2, "eval_every": 1, "save_every": 1, "eval_samples": 1, "device": "cpu"}
    return train.Config(out=str(Path(folder) / "dpo"), **{**small, "init_from": str(Path(folder) / "first"), **changes})


def as_run(folder: Path, model: nn.Module, config: TrainConfig, recipe: str = "Alignment/SFT") -> None:
    """Write the folder of a run that ended with this network."""
    folder.mkdir(parents=True)
    save(model.state_dict(), folder / "best.pt")
    TOKENS.save(folder / "vocabulary-tokens.json")
    write_json({"recipe": recipe, "config": dataclasses.asdict(config)}, folder / "config.json")


def first_run(folder: Path) -> nn.Module:
    model = policy()
    as_run(folder / "first", model, sft.Config(model="tiny"))
    return model


# ---- log-probabilities ---------------------------------------------------------------------------------------------


class Bigrams(nn.Module):
    """log p of a token depends on the one before it alone."""

    max_length = 16

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(13, 13, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


def test_log_p_of_a_two_token_answer_by_hand() -> None:
    """Neither the prompt's tokens nor the padding are in it, but the first token after the prompt is."""
    model = Bigrams()
    log_p = model.table.weight.log_softmax(-1)
    found = batch_of([Ids([3, 1, 4], [5, 9], [2]), Ids([6], [5], [3, 5, 8])], longest=16)
    chosen, rejected = answers(model, found, "chosen", "rejected")
    first = log_p[4, 5] + log_p[5, 9]
    torch.testing.assert_close(chosen.sums, torch.stack([first, log_p[6, 5]]))
    torch.testing.assert_close(chosen.means[0], first / 2)
    torch.testing.assert_close(chosen.nll[0], -(log_p[3, 1] + log_p[1, 4] + first) / 4)  # prompt and answer
    torch.testing.assert_close(rejected.sums, torch.stack([log_p[4, 2], log_p[6, 3] + log_p[3, 5] + log_p[5, 8]]))


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "orpo"])
def test_padding_and_the_company_of_a_batch_change_no_loss(loss: Any) -> None:
    model, other = policy().double(), policy(2).double()
    found = with_reference(other, batch())
    task = Preferences(loss, held_out=Loader(found, 4))
    task.begin_evaluation(model)
    together = task.eval_step(model, found).loss
    parts = [task.eval_step(model, part) for part in Loader(found, 3).batches()]
    assert sum(part.loss.item() * part.count for part in parts) / 10 == pytest.approx(together.item(), abs=1e-12)
    longer = {name: torch.cat([x, x], dim=1) if x.ndim == 2 else x for name, x in found.items()}
    assert task.eval_step(model, longer).loss.item() == pytest.approx(together.item(), abs=1e-12)


@pytest.mark.gpu
def test_a_reference_on_cuda_is_that_of_the_cpu() -> None:
    expected = with_reference(policy(), batch())
    found = with_reference(policy().cuda(), batch())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)


# ---- the task ------------------------------------------------------------------------------------------------------


def test_a_policy_with_adapters_is_its_reference_at_first(tmp_path: Path) -> None:
    """The reference is the SFT run with its adapters, not the network below them: KL 0 and ln 2 at step 0."""
    base = first_run(tmp_path)
    tuned = adapt(policy(), rank=2)
    for name, parameter in tuned.named_parameters():
        parameter.data += 0.5 * torch.randn_like(parameter) if name.endswith(".up") else 0
    as_run(tmp_path / "tuned", tuned, sft.Config(model="tiny", init_from=str(tmp_path / "first"), lora_rank=2))
    config = settings(tmp_path, init_from=str(tmp_path / "tuned"), lora_rank=2, loss="kto")
    reference = start(dataclasses.replace(config, lora_rank=0), {"tokens": TOKENS}, build)
    found = batch(config, reference)
    assert not torch.allclose(found["reference_chosen"], with_reference(base, batch())["reference_chosen"], atol=0.01)
    first = start(config, {"tokens": TOKENS}, build)
    for loss, value in (("dpo", math.log(2)), ("kto", 0.5), ("ipo", 25.0)):
        task = Preferences(loss, held_out=Loader(found, 4))
        task.begin_evaluation(first)
        assert task.step(first, found).loss.item() == pytest.approx(value, abs=1e-4)
    chosen, mismatched = answers(first, found, "chosen", "mismatched")
    assert (chosen.sums - found["reference_chosen"]).abs().max() < 1e-5
    assert (mismatched.sums - found["reference_mismatched"]).abs().max() < 1e-5


def test_no_gradient_flows_through_kto_s_reference_point() -> None:
    model = policy().double()
    found = with_reference(policy(2).double(), batch())
    task = Preferences("kto")
    found["reference_mismatched"] -= 9  # a divergence above 0
    task.step(model, found).loss.backward()
    kl = task._kl(model, [found])
    gradient = model.token_embedding.weight.grad.clone()
    model.zero_grad()
    task._score(model, found, torch.tensor(float(kl), dtype=torch.float64)).loss.backward()
    assert kl > 1 and torch.equal(model.token_embedding.weight.grad, gradient)


def test_errors_count_wrong_orders_and_ties_by_half() -> None:
    model = policy()
    found = with_reference(model, batch(model=model))
    shift = torch.tensor([1.0, -1, 0, 0, 2, 2, 2, 2, -1, -1])
    outputs = Preferences().eval_step(model, found | {"reference_rejected": found["reference_rejected"] + shift}).outputs
    assert outputs["wrong"][[0, 1, 4, 8]].tolist() == [0, 1, 0, 1]
    same = found | {f"rejected{end}": found[f"chosen{end}"] for end in ("", "_length")}
    same["reference_rejected"] = same["reference_chosen"]
    outputs = Preferences().eval_step(model, same).outputs
    assert outputs["wrong"].tolist() == [0.5] * 10 and outputs["tokens"] == 40
    (chosen,) = answers(model, found, "chosen")
    assert outputs["chosen_nll"].item() == pytest.approx(-chosen.sums.sum().item() / 40)


def test_a_rank_without_a_pair_has_a_loss_of_zero() -> None:
    empty = {name: tensor[:0] for name, tensor in batch().items()}
    for loss in ("dpo", "orpo"):
        output = Preferences(loss).step(policy(), empty)
        assert output.loss.item() == 0 and output.count == 0


# ---- pairs that are drawn ------------------------------------------------------------------------------------------


@pytest.fixture
def half_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all answers are right, the others have another first digit; the noise of the first token decides."""

    def sample(model: nn.Module, prompts: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        digits = prompts.shape[1] // 2 - 1
        powers = 10 ** torch.arange(digits).flip(0)
        numbers = torch.stack([(part[:, :digits] * powers).sum(1) for part in (prompts, prompts[:, digits + 1 :])], dim=1)
        found = Sums(digits).answers(numbers)[:, None].repeat(1, noise.shape[1], 1)
        wrong = (noise[..., 0] * 18).long()  # 0 to 17, right from 9 on
        found[..., 0] = torch.where(wrong < 9, (found[..., 0] + wrong + 1) % 10, found[..., 0])
        return found, None

    monkeypatch.setattr(drawing, "sample", sample)


def test_drawn_pairs_are_a_right_and_a_wrong_answer_and_held_out_prompts_have_one(half_right: None) -> None:
    found = drawn_pairs(policy(), SUMS, seed=3, samples=6, prompts=30, most=2)
    for prompt, chosen, rejected, _ in found:
        expected = f"{int(prompt[:2]) + int(prompt[3:5]):03}"[::-1] + "."
        assert chosen == expected != rejected
    by_part = {part: [pair for pair in found if pair.part == part] for part in ("train", "val", "test")}
    assert len(by_part["val"]) == len(by_part["test"]) == 200
    numbers = [[int(pair.prompt[:2]), int(pair.prompt[3:5])] for pair in by_part["val"]]
    assert numbers == SUMS.pairs("val").tolist()
    train_prompts = [pair.prompt for pair in by_part["train"]]
    assert 20 < len(set(train_prompts)) <= 30 and max(map(train_prompts.count, train_prompts)) == 2
    assert len(set(by_part["train"])) == len(by_part["train"])


def test_noise_depends_on_seed_prompt_and_sample_alone(half_right: None, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"sums": Sums(1), "samples": 4, "prompts": 20, "most": 4}
    found = drawn_pairs(policy(), seed=3, **options)
    monkeypatch.setattr(drawing, "CHUNK", 7)
    torch.rand(5)  # of the global generator nothing is taken
    assert drawn_pairs(policy(), seed=3, **options) == found
    assert drawn_pairs(policy(), seed=4, **options) != found


def test_what_follows_an_end_mark_is_no_part_of_an_answer() -> None:
    given = drawing._texts(torch.tensor([TOKENS.encode(text) for text in ("2...", "240.", "1111", "2.1.", "1111")]))
    assert given == ["2.", "240.", "1111", "2.", "1111"]
    found = drawing._pairs("07+35=", "240.", given, "train", 4)
    assert [(pair.chosen, pair.rejected) for pair in found] == [("240.", "2."), ("240.", "1111")]
    assert drawing._pairs("07+35=", "240.", given[1:2], "train", 4) == []
    assert drawing._pairs("07+35=", "240.", given[:1], "train", 4) == []
    assert drawing._pairs("07+35=", "240.", given[1:2], "val", 4) == [Pair("07+35=", "240.", "340.", "val")]


def test_a_run_keeps_its_pairs_and_resumes_with_them(half_right: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_run(tmp_path)
    config = settings(tmp_path, digits=1, prompts=4, samples=4, steps=1, plots=False)
    history = train.main(config)
    assert set(history.test) == {"loss", "preference_error", "chosen_nll", "greedy_error", "sampled_error"}
    written = (tmp_path / "dpo" / FILE).read_bytes()
    assert json.loads(written.splitlines()[0])["part"] == "train"
    monkeypatch.setattr(data, "drawn_pairs", lambda *_: pytest.fail("drawn again"))
    train.main(config)
    (tmp_path / "dpo" / FILE).write_bytes(written.replace(b'"rejected": "', b'"rejected": "1', 1))
    with pytest.raises(UserError, match="was changed since it was written"):
        train.main(config)
    forget(tmp_path / "dpo" / FILE)
    (tmp_path / "dpo" / FILE).write_bytes(written.splitlines()[0])
    with pytest.raises(UserError, match="is not of this run"):
        train.main(config)


def test_another_reference_than_at_the_beginning_is_refused(tmp_path: Path) -> None:
    first_run(tmp_path)
    config = settings(tmp_path, steps=1, plots=False)
    train.main(config, splits(config))
    save(policy(2).state_dict(), tmp_path / "first" / "best.pt")
    with pytest.raises(UserError, match="--init-from names has other weights"):
        train.main(config, splits(config))


def test_a_policy_that_is_never_right_has_nothing_to_prefer(tmp_path: Path) -> None:
    first_run(tmp_path)
    with pytest.raises(UserError, match="no sum both right and wrong in 1 samples"):
        pair_splits(settings(tmp_path, digits=1, prompts=4, samples=1))


# ---- pairs of a file -----------------------------------------------------------------------------------------------


def text_run(folder: Path) -> Vocabulary:
    """Write the run of a GPT-2 on characters."""
    letters = Vocabulary("abcdef ")
    model = gpt2.build("tiny", vocab_size=7, max_length=8)
    config = gpt2.Config(out=str(folder / "first"), model="tiny", context_length=8)
    as_run(folder / "first", model, config, "GPT/GPT2")
    letters.save(folder / "first" / "vocabulary-tokens.json")
    rows = [{"prompt": f"{letter} ", "chosen": "abc", "rejected": "fe"} for letter in "abcdef"]
    rows += [{"prompt": "a ", "chosen": "abcabcabc", "rejected": "f"}, {"prompt": "a ", "chosen": "b", "rejected": "b"}]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return letters


def test_a_text_model_is_tuned_on_pairs_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    letters = text_run(tmp_path)
    config = settings(tmp_path, data=f"pairs:{tmp_path / 'pairs.jsonl'}", loss="kto", steps=2, plots=False)
    history = train.main(config)
    said = capsys.readouterr().out
    assert "1 of 8 pairs left out: the same answer twice" in said and "longer than 9 tokens" in said
    assert set(history[0]["val"]) == {"loss", "preference_error", "chosen_nll"}
    run = Run.open(tmp_path / "dpo")
    assert run.vocabularies["tokens"] == letters and run.model()(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 7)
    text = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text(text.replace("fe", "fa"), encoding="utf-8")
    with pytest.raises(UserError, match="the data is not what the run in"):
        train.main(config)


def test_all_pairs_of_a_prompt_are_in_one_part(tmp_path: Path) -> None:
    text_run(tmp_path)
    found = data.file_pairs(settings(tmp_path, data=f"pairs:{tmp_path / 'pairs.jsonl'}"))
    parts = {part: {pair.prompt for pair in found if pair.part == part} for part in data.PARTS}
    assert [len(prompts) for prompts in parts.values()] == [4, 1, 1] and len(set.union(*parts.values())) == 6
    rows = [{"prompt": p, "chosen": "a", "rejected": "b", "part": part} for p, part in (("c", "train"), ("d", "val"))]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = data.file_pairs(settings(tmp_path, data=f"pairs:{tmp_path / 'pairs.jsonl'}"))
    assert [pair.part for pair in found] == ["train", "val"]


# ---- the recipe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"beta": 0.0}, "--beta has to be above 0"),
        ({"loss": "ppo"}, "--loss has to be one of dpo, ipo, kto, orpo"),
        ({"loss": "kto", "accumulate": 2}, "--accumulate is for losses of single pairs"),
        ({"init_from": ""}, "--init-from has to be the folder of a run"),
        ({"data": "texts"}, "--data has to be sums, or pairs:FILE"),
        ({"samples": 0}, "--samples has to be at least 1"),
    ],
    ids=str,
)
def test_an_invalid_value_names_its_flag(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**flags)


def run_from_another(folder: Path) -> train.Config:
    first_run(folder)
    return settings(folder, epochs=2, eval_every=3, lora_rank=2, loss="kto")


def splits(config: train.Config) -> Splits:
    reference = start(dataclasses.replace(config, lora_rank=0), {"tokens": TOKENS}, build)
    found = batch(config, reference)
    held_out = {name: tensor[::2] for name, tensor in found.items()} | {"pairs": torch.tensor(NUMBERS)}
    return Splits(Loader(found, 4, shuffle=True), *[Loader(held_out, 4)] * 2, vocabularies={"tokens": TOKENS})


test_standard = testing.standard_checks(
    build,
    train.main,
    run_from_another,
    batch,
    splits=splits,
    task=lambda: Preferences(beta=1.0),
    inputs=lambda: (batch()["chosen"],),
)


def launched(out: Path, *flags: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "dl.modules.Alignment.DPO.train", "--out", str(out), "--device", "cpu", *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_kills_leave_the_bytes_of_the_undisturbed_run(tmp_path: Path) -> None:
    """kill -9 at ten random moments after a checkpoint, of which there is one at every second step."""
    first_run(tmp_path)
    lines = [{"prompt": f"{a:02}+{b:02}=", "chosen": f"{a}", "rejected": f"{b}."} for a in range(12) for b in range(12, 20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    flags = ["--init-from", str(tmp_path / "first"), "--data", f"pairs:{tmp_path / 'pairs.jsonl'}", "--loss", "kto"]
    flags += ["--batch-size", "4", "--steps", "400", "--save-every", "2", "--eval-every", "100", "--no-plots"]
    wait = random.Random(0)
    assert_kills_change_nothing(lambda out: launched(out, *flags), tmp_path, [wait.uniform(0, 0.1) for _ in range(10)])
