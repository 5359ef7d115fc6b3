"""The recipes of GPT-2 and Llama, through their `main`, and the texts that their runs write."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dl.cli.runs import Run, restore
from dl.modules.GPT import generate
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.GPT2 import generate as gpt2_generate
from dl.modules.GPT.GPT2 import model as gpt2_model
from dl.modules.GPT.GPT2 import train as gpt2_train
from dl.modules.GPT.Llama import train as llama_train
from dl.modules.GPT.recipe import build_for
from dl.modules.GPT.task import TextModeling, WordPerplexity
from dl.modules.GPT.testing import TEXT, tiny, token_file
from dl.mytorch import testing
from dl.mytorch.checkpoint import load, save
from dl.mytorch.command_line import parse
from dl.mytorch.config import UserError
from dl.mytorch.data import Splits, Vocabulary, sources
from dl.mytorch.data.loader import Loader
from dl.mytorch.data.sequences import IGNORED, blocks, windows
from dl.mytorch.data.text.tokens import write_tokens
from dl.mytorch.files import read_json, write_json
from dl.mytorch.testing.runs import forget
from dl.mytorch.text.generation import to_text
from dl.mytorch.torchvision_compat import import_torchvision

BOTH = pytest.mark.parametrize("train", [gpt2_train, llama_train], ids=["GPT2", "Llama"])


def config(train: ModuleType, out: Path, **changes: Any) -> Any:
    settings = {"model": "tiny", "context_length": 8, "steps": 6, "eval_every": 3, "save_every": 3, "lr": 1e-2, "dropout": 0.1}
    return train.Config(out=str(out), **{**settings, **changes})


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextModeling, "length", 3)


def characters(batch_size: int = 12) -> Splits:
    vocabulary = Vocabulary.build(TEXT, reserved=())
    ids = torch.tensor(vocabulary.encode(TEXT))
    train = Loader(windows(ids[:700], 8), batch_size, shuffle=True)
    return Splits(train, Loader(blocks(ids[700:], 8), batch_size), vocabularies={"tokens": vocabulary})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return token_file(tmp_path)


@BOTH
def test_recipe_trains_block_by_block(tmp_path: Path, no_figures: None, train: ModuleType) -> None:
    history = train.main(config(train, tmp_path, layerwise="greedy"), characters())
    assert [record["epoch"] for record in history] == [1, 2]  # there is nothing to test
    first, second = (load(tmp_path / f"block{place}" / "best.pt") for place in (0, 1))
    assert torch.equal(first["outside.token_embedding.weight"], second["outside.token_embedding.weight"])
    assert not torch.equal(first["outside.norm.weight"], second["outside.norm.weight"])


def test_a_run_is_tuned_by_adapters_alone_resumes_and_opens(tmp_path: Path, no_figures: None) -> None:
    train = gpt2_train
    first = config(train, tmp_path / "first", steps=1, eval_every=1)
    train.main(first, characters())
    asked = config(train, tmp_path / "tuned", init_from=first.out, lora_rank=2, steps=3, eval_every=1, save_every=1)
    gone = iter([False, False, True])  # when the stopped run starts again, which needs the first no more

    def data() -> Splits:
        if next(gone):
            Path(first.out).rename(tmp_path / "left")
        return characters()

    testing.assert_resumes_exactly(train.main, asked, data)
    tuned = Run.open(tmp_path / "tuned" / "whole")
    before, after = Run.open(tmp_path / "left").model().state_dict(), tuned.model()
    weights = after.state_dict()
    adapters = {name for name in weights if name.endswith((".up", ".down"))}
    assert len(adapters) == 8 and all(weights[name].abs().max() > 0 for name in adapters)
    assert all(torch.equal(weights[name], before[name.replace(".linear.", ".")]) for name in weights.keys() - adapters)
    merged, tokens = build_for(first, tuned.vocabularies, gpt2_model.build, start=tuned).eval(), torch.tensor([[1, 2, 3]])
    assert merged.state_dict().keys() == before.keys()
    torch.testing.assert_close(merged(tokens), after(tokens))


def test_what_cannot_be_tuned_is_refused_in_a_line(tmp_path: Path, no_figures: None, folder: Path) -> None:
    train = gpt2_train
    first = config(train, tmp_path / "first", steps=1, eval_every=1)
    train.main(first, characters())
    for flags, data, message in (
        ({"data": f"folder:{folder}"}, None, "first has other tokens than --data"),
        ({"context_length": 4}, characters(), "belongs to another model than this GPT2"),
        ({"lora_rank": 8}, characters(), "rank has to be at least 1 and below 8, that of the layer itself; got 8"),
    ):
        with pytest.raises(UserError, match=message):
            train.main(config(train, tmp_path / "tuned", init_from=first.out, **flags), data)
    with pytest.raises(UserError, match="--lora-rank trains all blocks at once, without --layerwise"):
        config(train, tmp_path, lora_rank=2, layerwise="greedy")


def test_the_schedule_is_nanogpt_s(tmp_path: Path, no_figures: None) -> None:
    gpt2_train.main(config(gpt2_train, tmp_path, warmup=3, steps=5, eval_every=1), characters())
    rates = [record["lr"] for record in read_json(tmp_path / "history.json")]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.0055])  # up in equal parts, half a cosine to a tenth


@BOTH
def test_a_run_continues_a_text(
    tmp_path: Path, folder: Path, no_figures: None, capsys: pytest.CaptureFixture, train: ModuleType
) -> None:
    runs = {"letters": characters(), "words": None}
    for name, data in runs.items():
        train.main(config(train, tmp_path / name, data=f"folder:{folder}"), data)
        texts = []
        for seed in ("1", "1", "2"):
            capsys.readouterr()
            assert generate.main([str(tmp_path / name), "to be", "--tokens", "30", "--seed", seed]) == 0
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1] != texts[2] and texts[0].startswith("to be") and len(texts[0]) > 10
    assert BPE.read(tmp_path / "words" / "vocabulary-tokens.json") == BPE.load(folder)
    assert read_json(tmp_path / "words" / "history.json")[0]["val"].keys() == {"loss", "bits_per_byte"}
    for prompt, message in (("", "one at least"), ("to be or not", "a prompt of 12 tokens is longer than the 8"), ("X", "'X'")):
        assert generate.main([str(tmp_path / "letters"), prompt]) == 1
        shown = capsys.readouterr()
        assert message in shown.err and not shown.out
    assert generate.main([str(tmp_path / "letters"), "to be", "--seed", "4294967295", "--tokens", "1"]) == 0
    for flag, value in (("--seed", "-1"), ("--seed", "4294967296"), ("--tokens", "-1"), ("--tokens", "1000000000000")):
        assert generate.main([str(tmp_path / "letters"), "to be", flag, value]) == 1
        assert f"{flag} has to be from 0 to" in capsys.readouterr().err
    assert generate.main([str(tmp_path / "none"), "to be"]) == 1
    assert "holds no trained network" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["recipe", "config", "context_length", "model", "weights", "tokens"])
def test_altered_files_of_a_run_are_refused_in_a_line(tmp_path: Path, field: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a folder from somebody else, without checksums; a network of gigabytes is refused before it is built."""
    vocabulary, asked = Vocabulary.build(TEXT, reserved=()), config(gpt2_train, tmp_path, steps=1)
    save(gpt2_model.build("tiny", vocab_size=len(vocabulary), max_length=8).state_dict(), tmp_path / "best.pt")
    vocabulary.save(tmp_path / "vocabulary-tokens.json")
    described = {"recipe": "GPT/GPT2", "config": dataclasses.asdict(asked)}
    write_json(described, tmp_path / "config.json")
    assert gpt2_generate.main([str(tmp_path), "to be", "--tokens", "1"]) == 0
    wrong = [None, [], {}, "x", -1, 10**30, True, [[[]]]]
    if field in described:
        altered = [("config.json", described | {field: value}) for value in wrong]
    elif field in described["config"]:
        wrong += [10**12, 2.5] if field == "context_length" else ["gpt2-xl"] if field == "model" else []
        altered = [("config.json", described | {"config": described["config"] | {field: value}}) for value in wrong]
    elif field == "tokens":
        wrong += [["a", "a"], ["a", 1], ["a"], {"merges": [], "special": 1}]
        altered = [("vocabulary-tokens.json", value) for value in wrong]
    else:
        altered = [("best.pt", value) for value in wrong]
    for name, value in altered:
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
        capsys.readouterr()
        assert gpt2_generate.main([str(tmp_path), "to be", "--tokens", "1"]) == 1, (name, value)
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 600, said
        (tmp_path / name).write_bytes(kept)


def test_a_prompt_alone_is_for_the_run_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(generate, "load", lambda run: seen.append(run) or (None, None))
    monkeypatch.setattr(generate, "write", lambda model, tokens, options: seen.append(options.prompts))
    assert gpt2_generate.main(["ROMEO:"]) == gpt2_generate.main(["gpt2", "--temperature", "0", "JULIET:"]) == 0
    assert generate.main(["runs/a", "ROMEO:", "JULIET:"]) == 0
    assert seen == ["runs/GPT/GPT2", ["ROMEO:"], "gpt2", ["JULIET:"], "runs/a", ["ROMEO:", "JULIET:"]]


def test_several_prompts_and_a_draft_change_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = Vocabulary.build(TEXT, reserved=())
    sizes = {"vocab_size": len(vocabulary), "max_length": 12}
    networks = {"large": (tiny(**sizes), vocabulary), "small": (tiny(**sizes, depth=1), vocabulary)}
    networks["other"] = networks["small"][0], Vocabulary.build(TEXT + "Z", reserved=())
    monkeypatch.setattr(generate, "load", networks.__getitem__)

    def said(*words: str) -> str:
        assert generate.main(["large", *words, "--tokens", "14", "--seed", "3"]) == 0
        return capsys.readouterr().out

    prompts = ("to be", "n", "or not")
    alone = [said(prompt, "--temperature", "1.5") for prompt in prompts]
    assert said(*prompts, "--temperature", "1.5") == "".join(alone) and len(set(alone)) == 3
    assert said("to be", "--draft", "small", "--temperature", "0") == said("to be", "--temperature", "0")
    for words, message in (
        (["n", "--draft", "other"], "--draft other has other tokens than large: it cannot draft for it"),
        (["n", "to be", "--draft", "small"], "--draft is for one prompt, without --repetition-penalty"),
        (["n", "--draft", "small", "--repetition-penalty", "2"], "--draft is for one prompt, without --repetition-penalty"),
    ):
        assert generate.main(["large", *words]) == 1
        assert capsys.readouterr().err == f"error: {message}\n"


def test_the_sample_is_the_same_each_time_and_begins_a_line(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(TEXT, reserved=())
    model = gpt2_model.build("tiny", vocab_size=len(vocabulary))
    task = TextModeling(vocabulary)
    first, second = (task.preview(model)["sample"] for _ in range(2))
    assert first == second and first.startswith("\n") and len(first) == 4
    assert to_text(vocabulary, vocabulary.encode("to be")) == "to be"


def test_perplexity_per_word_counts_each_word_once_however_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model to which all tokens are as likely, it is V to the power of tokens per word."""
    (tmp_path / "wikitext-2").mkdir()
    texts = {"train": " one two three\n" * 40, "valid": " one\n", "test": "\n one three three two\n one two\n"}
    for split, text in texts.items():
        (tmp_path / "wikitext-2" / f"wiki.{split}.tokens").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sources, "DATA", tmp_path)
    splits = text_splits(config(gpt2_train, tmp_path, data="wikitext2", batch_size=2), 8)
    bpe, test = splits.vocabularies["tokens"], splits.test.dataset["targets"]
    task = TextModeling(bpe, per="words")
    metric = task.metrics()["word_perplexity"]
    for batch in splits.test.batches():
        output = task.eval_step(lambda tokens: torch.zeros(*tokens.shape, len(bpe)), batch)
        metric.update(output.outputs)
    predicted = int((test != IGNORED).sum())
    assert predicted == len(bpe.encode("\n one three three two\n one two\n")) - 1
    assert metric.compute() == pytest.approx(math.exp(predicted * math.log(len(bpe)) / 8))  # six words, two ends of lines


def test_bits_per_byte_count_each_byte_once_however_it_is_cut(tmp_path: Path) -> None:
    """With a model to which all tokens are as likely, they are log2 V for each token. An end of text has no bytes."""
    text = "Tag f\u00fcr Tag, jeden Tag." * 9
    for name, merges in (("bytes", 0), ("pieces", 12)):
        bpe = BPE.train(text, 257 + merges)
        ids = [*bpe.encode(text), bpe.special["<|endoftext|>"], *bpe.encode("Tag")]
        targets = torch.tensor([[*ids[1:], IGNORED]])
        batch = {"tokens": torch.tensor([ids]), "targets": targets}
        task = TextModeling(bpe, per="bytes")
        metric = task.metrics()["bits_per_byte"]
        metric.update(task.eval_step(lambda tokens: torch.zeros(*tokens.shape, len(bpe)), batch).outputs)
        predicted = len(text.encode()) + 3 - len(bpe.tokens[ids[0]])  # all but the first token
        assert metric.compute() == pytest.approx((len(ids) - 1) * math.log2(len(bpe)) / predicted), name


def test_a_perplexity_per_word_that_is_too_large_for_a_number_is_infinite() -> None:
    metric = WordPerplexity()
    metric.update({"loss": torch.tensor(800.0), "count": torch.tensor(10), "words": torch.tensor(8)})
    assert metric.compute() == math.inf


def test_impossible_flags_are_refused(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for flags in ("--context-length 0", "--dropout 1", "--min-lr-ratio 2", "--beta2 1", "--warmup -1"):
        with pytest.raises(SystemExit):
            parse(gpt2_train.Config, flags.split())
        assert f"{flags.split()[0]} has to be" in capsys.readouterr().err
    with pytest.raises(UserError, match="--data sonnets: there are shakespeare, shakespeare-sample, wikitext2 and folder:PATH"):
        text_splits(config(gpt2_train, tmp_path, data="sonnets"), 8)


def test_flags_of_version_0_1_are_those_of_today() -> None:
    today = {"context_length": 8, "min_lr_ratio": 0.2, "num_experts": 3, "aux_loss_weight": 0.5}
    before = dict(zip(("length", "floor", "experts", "balance"), today.values()))
    flags = [f"--{name}={value}" for name, value in before.items()]
    assert parse(llama_train.Config, flags) == restore(llama_train.Config, before, "config.json") == llama_train.Config(**today)


def test_tokens_that_the_vocabulary_lacks_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="x is no folder; `python -m dl.modules.GPT.BPE.prepare .*x TEXT` makes it"):
        text_splits(config(gpt2_train, tmp_path, data=f"folder:{folder}x"), 8)
    for ids in ([[1] * 95, [270] * 5], [[1] * 5, [270], [1] * 94]):  # of those that validate, of those that train
        write_tokens(folder / "tokens.bin", ids)
        with pytest.raises(UserError, match="tokens.bin has the id 270, the vocabulary only 270"):
            text_splits(config(gpt2_train, tmp_path, data=f"folder:{folder}"), 8)


def test_token_files_that_were_changed_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = config(gpt2_train, tmp_path, data=f"folder:{folder}")
    text_splits(asked, 8)
    assert capsys.readouterr().out == ""
    content = bytearray((folder / "tokens.bin").read_bytes())
    content[100] ^= 1
    (folder / "tokens.bin").write_bytes(content)
    with pytest.raises(UserError, match="tokens.bin was changed since it was written"):
        text_splits(asked, 8)
    forget(folder / "tokens.bin")
    text_splits(asked, 8)
    assert "tokens.bin: written before checksums: not verified" in capsys.readouterr().out


def test_a_folder_of_another_network_of_transformers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neo"}', encoding="utf-8")
    assert gpt2_generate.main([str(tmp_path), "to be"]) == 1
    assert "holds a network of the type 'gpt_neo'; this is for 'gpt2'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_training_on_a_token_file_takes_memory_that_does_not_grow_with_it(tmp_path: Path, folder: Path) -> None:
    """Whole runs from the command line, on 40 MB and on 300 MB of tokens: both files are larger than what validates."""
    peaks = []
    for count in (20_000_000, 150_000_000):
        generator = np.random.default_rng(0)
        parts = (generator.integers(0, 270, 1_000_000) for _ in range(count // 1_000_000))
        assert write_tokens(folder / "tokens.bin", parts) == count
        flags = f"--data folder:{folder} --out {tmp_path / str(count)} --model tiny --context-length 256"
        flags += " --batch-size 16 --steps 400"
        command = [sys.executable, "-m", "dl.modules.GPT.GPT2.train", *flags.split(), "--eval-every", "400"]
        subprocess.run(command, check=True, capture_output=True, timeout=900)
        peaks.append(read_json(tmp_path / str(count) / "speed.json")["peak_memory_bytes"] / 1e6)
    print(f"peak memory: {peaks[0]:.0f} MB with a file of 40 MB, {peaks[1]:.0f} MB with one of 300 MB")
    assert peaks[1] - peaks[0] < 200  # a file that stays in memory adds 380; from run to run a peak moves by up to 80


@pytest.mark.parity
def test_a_folder_of_transformers_continues_a_text(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    import_torchvision()  # which transformers imports if it is there
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 270, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 40}
    reference = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    reference.save_pretrained(folder)
    assert gpt2_generate.main([str(folder), "to be", "--temperature", "0", "--tokens", "9"]) == 0
    bpe = BPE.load(folder)
    ids = reference.eval().generate(torch.tensor([bpe.encode("to be")]), max_new_tokens=9, do_sample=False)
    assert capsys.readouterr().out.rstrip("\n") == bpe.decode(ids[0].tolist()).rstrip("\ufffd\n")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "merges.txt").unlink()
    for content, message in ((whole, "merges.txt does not exist"), (whole[:-9], "cannot be loaded"), (b"", "cannot be loaded")):
        (folder / "model.safetensors").write_bytes(content)
        assert gpt2_generate.main([str(folder), "to be"]) == 1
        assert message in capsys.readouterr().err
    (folder / "model.safetensors").unlink()
    assert gpt2_generate.main([str(folder), "to be"]) == 1
    assert "no file named model.safetensors" in capsys.readouterr().err


def test_a_mark_of_dialogues_ends_a_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Vocabulary(["<|end|>", "a", "b"])
    drawn = torch.tensor([[2], [1], [0], [2]])
    monkeypatch.setattr(generate, "stream", lambda *_, **options: iter(drawn[: 3 if 0 in options["stop"] else 4]))
    generate.write(torch.nn.Identity(), tokens, generate.parse(["run", "ab"], ""))
    assert capsys.readouterr().out == "abba\n"
