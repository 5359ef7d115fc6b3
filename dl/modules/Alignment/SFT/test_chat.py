"""Dialogues: files, the template with what is learnt of it counted by hand, and packing without leaks."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.cli.runs import Run
from dl.modules.Alignment.SFT import chat, train
from dl.modules.Alignment.SFT.task import Tuning
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.GPT2 import train as gpt2
from dl.modules.GPT.GPT2.model import build as build_gpt2
from dl.modules.GPT.Llama.model import build as build_llama
from dl.modules.GPT.Qwen3.model import build as build_qwen3
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader, Splits, Vocabulary
from dl.mytorch.data.sequences import IGNORED, blocks
from dl.mytorch.text import generation

TURNS = [("system", "s"), ("user", "ab"), ("assistant", "cd"), ("user", "a"), ("assistant", "b")]
TOKENS = chat.with_marks(Vocabulary("abcds"))


def write(path: Path, rows: list) -> Path:
    lines = (json.dumps(row) for row in rows)
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(rows), encoding="utf-8")
    return path


def test_dialogues_of_both_forms_are_read(tmp_path: Path) -> None:
    instructions = [{"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Hi", "input": "", "output": "Hi"}]
    messages = [{"messages": [{"role": role, "content": text} for role, text in TURNS]}]
    found = chat.read_dialogues(write(tmp_path / "a.json", instructions))
    assert found == [[("user", "Add\n1 2"), ("assistant", "3")], [("user", "Hi"), ("assistant", "Hi")]]
    assert chat.read_dialogues(write(tmp_path / "b.jsonl", messages)) == [TURNS]


def test_lines_end_where_json_says_and_a_file_of_another_encoding_is_a_line(tmp_path: Path) -> None:
    row = {"instruction": "a\u2028b", "output": "c\x85"}
    line = json.dumps(row, ensure_ascii=False) + "\r\n"
    (tmp_path / "a.jsonl").write_text(2 * line, encoding="utf-8-sig", newline="")
    assert chat.read_dialogues(tmp_path / "a.jsonl") == 2 * [[("user", "a\u2028b"), ("assistant", "c\x85")]]
    (tmp_path / "b.jsonl").write_text(line.replace("\u2028", "é"), encoding="latin-1")
    with pytest.raises(UserError, match="b.jsonl is not UTF-8"):
        chat.read_dialogues(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"instruction": "Add", "output": ""}, "dialogue 1 has no answer: nothing would be learnt from it"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "dialogue 1 has no answer"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "dialogue 1 has the role 'tool'"),
        ({"text": "Hi"}, "dialogue 1"),
    ],
)
def test_a_dialogue_that_teaches_nothing_is_refused(tmp_path: Path, row: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        chat.read_dialogues(write(tmp_path / "a.jsonl", [row]))
    (tmp_path / "a.json").write_text("[", encoding="utf-8")
    with pytest.raises(UserError, match="a.json is not JSON"):
        chat.read_dialogues(tmp_path / "a.json")


def test_answers_and_their_end_marks_are_learnt_and_nothing_else() -> None:
    found = chat.template(TOKENS, TURNS)
    text = "<|system|>s<|end|><|user|>ab<|end|><|assistant|>cd<|end|><|user|>a<|end|><|assistant|>b<|end|>"
    assert chat.to_text(TOKENS, found.ids) == text
    assert chat.to_text(TOKENS, [i for i, learnt in zip(found.ids, found.learnt) if learnt]) == "cd<|end|>b<|end|>"
    batch = chat.pack([found], 20)
    assert int((batch["targets"] != IGNORED).sum()) == 5  # c d end b end
    assert chat.to_text(TOKENS, chat.prompt(TOKENS, TURNS)) == text.removesuffix("b<|end|>")


def test_marks_that_a_user_types_are_text() -> None:
    for tokens in (chat.with_marks(BPE([])), chat.characters([[("user", "<|end|>")]])):
        ids = chat.template(tokens, [("user", "<|end|>"), ("assistant", "<")]).ids
        assert ids.count(chat.mark_id(tokens, chat.END)) == 2 and chat.to_text(tokens, ids).count("<|end|>") == 3


def test_marks_come_after_a_run_s_tokens_whose_ids_stay() -> None:
    bpe = BPE([(65, 66)])
    assert chat.with_marks(bpe).tokens[: len(bpe)] == bpe.tokens and len(chat.with_marks(bpe)) == len(bpe) + 4
    assert TOKENS.tokens[:5] == tuple("abcds") and chat.with_marks(TOKENS) == TOKENS


# ---- packing -------------------------------------------------------------------------------------------------------


EXAMPLES = [chat.template(TOKENS, dialogue) for dialogue in (TURNS[1:3], TURNS[3:], TURNS[1:3][::-1] + TURNS[3:])]


def network(name: str) -> nn.Module:
    torch.set_default_dtype(torch.float64)  # rotary tables, too
    torch.manual_seed(0)
    build = {"gpt2": build_gpt2, "llama": build_llama, "qwen3": build_qwen3, "experts": build_qwen3}[name]
    options = {"qwen3": {"window": 3, "sinks": True}, "experts": {"num_experts": 3}}.get(name, {})
    model = build("tiny", max_length=24, **options)
    torch.set_default_dtype(torch.float32)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss at each target, (B, T)."""
    logits, targets = Tuning().predict(model, batch)
    return nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")


def test_examples_fill_rows_in_order() -> None:
    batch = chat.pack(EXAMPLES, 15)
    assert [len(example.ids) - 1 for example in EXAMPLES] == [7, 5, 13]
    assert batch["documents"].tolist() == [[0] * 7 + [1] * 5 + [-1] * 3, [0] * 13 + [-1] * 2]
    assert all((batch["targets"][i] != IGNORED).any() for i in (0, 1))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "experts"])
def test_packed_examples_have_the_loss_and_gradients_of_each_alone(name: str) -> None:
    found = []
    for batches in ([chat.pack(EXAMPLES, 24)], [chat.pack([example], len(example.ids) - 1) for example in EXAMPLES]):
        model = network(name)
        loss = sum(losses(model, batch).sum() for batch in batches)
        loss.backward()
        found.append((loss.detach(), *(parameter.grad for parameter in model.parameters())))
    for packed, alone in zip(*found):
        torch.testing.assert_close(packed, alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])  # experts round by how many tokens they have
def test_another_first_example_leaves_the_bits_of_the_second_s_loss(name: str) -> None:
    model, batch = network(name), chat.pack(EXAMPLES[:2], 15)
    changed = {**batch, "tokens": batch["tokens"].where(batch["documents"] != 0, (batch["tokens"] + 3) % 9)}
    second = batch["documents"] == 1
    assert torch.equal(losses(model, batch)[second], losses(model, changed)[second])
    assert not torch.equal(losses(model, batch), losses(model, changed))


# ---- the recipe ----------------------------------------------------------------------------------------------------


def config(path: Path, out: Path, **flags: object) -> train.Config:
    small = {"model": "tiny", "batch_size": 2, "steps": 2, "eval_every": 2, "device": "cpu", "plots": False}
    return train.Config(**{**small, "data": f"chat:{path}", "out": str(out), **flags})


def test_dialogues_are_learnt_from_nothing_and_from_a_run(tmp_path: Path) -> None:
    rows = [{"instruction": "ab" if i != 4 else "a" * 99, "output": "cd" * (i % 3 + 1)} for i in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    history = train.main(config(path, tmp_path / "new"))
    assert set(history.test) == {"loss", "perplexity"}
    tokens = Run.open(tmp_path / "new").vocabularies["tokens"]
    assert generation.to_text(tokens, tokens.encode("abcd")) == "abcd"  # characters, whatever marks are there
    options = {"model": "tiny", "steps": 1, "context_length": 16, "device": "cpu", "plots": False, "eval_every": 1}
    text = Loader(blocks(torch.arange(40) % 5, 16), 2)
    data = Splits(text, text, vocabularies={"tokens": Vocabulary("abcd\n")})
    gpt2.main(gpt2.Config(out=str(tmp_path / "gpt2"), **options), data)
    train.main(config(path, tmp_path / "tuned", init_from=str(tmp_path / "gpt2"), lora_rank=1, context_length=15))
    before, tuned = (Run.open(tmp_path / name) for name in ("gpt2", "tuned"))
    count = len(before.vocabularies["tokens"])
    assert len(tuned.vocabularies["tokens"]) == count + 4
    rows_before, rows_now = (run.model().token_embedding.weight for run in (before, tuned))
    assert torch.equal(rows_now[:count], rows_before)  # adapters alone were learnt


def test_files_that_are_too_small_or_too_long_are_refused(tmp_path: Path) -> None:
    few = write(tmp_path / "a.jsonl", [{"instruction": "a", "output": "b"}] * 2)
    with pytest.raises(UserError, match="2 dialogues are too few"):
        train.main(config(few, tmp_path / "run"))
    long = write(tmp_path / "b.jsonl", [{"instruction": "a" * 99, "output": "b"}] * 9)
    with pytest.raises(UserError, match="no dialogue of the part train has 17 tokens or fewer"):
        train.main(config(long, tmp_path / "run"))
    with pytest.raises(UserError, match="--data cat: there are sums and chat:PATH"):
        train.main(train.Config(data="cat", out=str(tmp_path / "run")))
