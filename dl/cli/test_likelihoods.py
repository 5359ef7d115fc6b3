"""`evaluate RUN --with bits_per_byte,word_perplexity,choices FILE`, for each kind of language model."""

import contextlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from dl import __main__ as front
from dl.cli import catalogue, likelihoods, verbs
from dl.cli.catalogue import UnknownName
from dl.cli.runs import Run
from dl.cli.testing import write_run
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.mytorch.checkpoint import save
from dl.mytorch.data import Vocabulary
from dl.mytorch.text import likelihood
from dl.mytorch.text.likelihood import text_log_probs

QUESTIONS = [
    {"prompt": "ab", "choices": ["a", "bb", "ab c"], "answer": 1, "delimiter": ""},
    {"question": "c", "choices": ["b", "a"], "answer": "a"},
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs with random weights, whose tokens are characters."""
    folder, patch = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    patch.setattr("dl.cli.testing.Vocabulary", lambda letters: Vocabulary(f"{letters} \n"))
    made = {recipe: write_run(folder / recipe.replace("/", "-"), recipe) for recipe in ("GPT/GPT2", "RNN/GRU")}
    patch.undo()
    return made


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    text, questions = tmp_path / "text.txt", tmp_path / "questions.jsonl"
    text.write_bytes(b"abc ab\r\n" * 100)
    questions.write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n\n", encoding="utf-8")
    return {"text": str(text), "questions": str(questions)}


def lines_of(capsys: pytest.CaptureFixture[str], *flags: object) -> dict[str, str]:
    """Return the printed figures by name; the last line by ""."""
    assert front.main(["evaluate", *map(str, flags)]) == 0
    *lines, about = capsys.readouterr().out.splitlines()
    return {line.rpartition(" ")[0].rstrip(): line.rpartition(" ")[2] for line in lines} | {"": about}


def test_a_text_is_measured_per_byte_and_per_word(
    runs: dict[str, Path], files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe, how in (
        ("GPT/GPT2", "windows of 64 tokens, stride 32: each after at least 32 others"),
        ("RNN/GRU", "after all before"),
    ):
        found = lines_of(capsys, runs[recipe], "--with", "bits_per_byte,word_perplexity", files["text"])
        bits = float(found["bits per byte"])
        assert abs(bits - math.log2(5)) < 0.3  # five characters, random weights
        assert float(found["word perplexity"]) == pytest.approx(2 ** (bits * 700 / 200), rel=1e-4)
        assert float(found["word perplexity, a line's end being a word"]) == pytest.approx(2 ** (bits * 700 / 300), rel=1e-4)
        assert found[""].startswith("700 tokens, 700 bytes, 200 words") and how in found[""]


def test_questions_are_answered_by_three_rules_and_right_answers_measured(
    runs: dict[str, Path], files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokens = catalogue.module("GPT", "generate").load(str(runs["GPT/GPT2"]))

    def score(context: str, text: str) -> float:
        ids = torch.tensor([tokens.encode(context + text)])
        with torch.no_grad():
            return model(ids)[0, len(context) - 1 : -1].log_softmax(-1).gather(1, ids[0, len(context) :, None]).sum().item()

    scored = [[score("ab", text) for text in ("a", "bb", "ab c")], [score("c", text) for text in (" b", " a")]]
    found = lines_of(capsys, runs["GPT/GPT2"], "--with", "choices,bits_per_byte,word_perplexity", files["questions"])
    bits = -(scored[0][1] + scored[1][1]) / math.log(2) / 4  # of "bb" and " a"
    assert float(found["bits per byte"]) == pytest.approx(bits, rel=1e-4)
    assert float(found["word perplexity"]) == pytest.approx(2 ** (bits * 4 / 2), rel=1e-4)
    wrong = [scores.index(max(scores)) != 1 for scores in scored]
    assert found["choices error"] == f"{sum(wrong) / 2:.2%}"
    per_character = [scored[0][0], scored[0][1] / 2, scored[0][2] / 4]
    wrong[0] = per_character.index(max(per_character)) != 1
    assert found["choices error, per character"] == found["choices error, per byte"] == f"{sum(wrong) / 2:.2%}"
    assert found[""] == "2 questions; a choice at random is wrong in 58.33%"


def test_word_pieces_and_words_are_measured_by_the_same_bytes(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("na\u00efve \u20ac5", encoding="utf-8")
    bpe, run = BPE([]), tmp_path / "run"
    shutil.copytree(runs["GPT/GPT2"], run)
    for file in ("vocabulary-tokens.json", "checksums.json", "best.pt"):
        (run / file).unlink()
    bpe.keep(run / "vocabulary-tokens.json")
    module = catalogue.module("GPT/GPT2", "train")
    torch.manual_seed(0)
    save(module.build_model(module.Config(model="tiny"), {"tokens": bpe}).state_dict(), run / "best.pt")
    found = lines_of(capsys, run, "--with", "bits_per_byte", text, "--stride", 64)
    assert found[""].startswith("11 tokens, 11 bytes, 2 words") and abs(float(found["bits per byte"]) - math.log2(257)) < 0.5


@pytest.mark.parametrize(
    ("metric", "content", "says"),
    [
        ("bits_per_byte", "", "is empty"),
        ("bits_per_byte", "abcd", "file.txt: 'd' is no token of the model"),
        ("bits_per_byte,beauty", "abc", "--with beauty reads no file: of one there are bits_per_byte"),
        ("choices", "abc", "--with choices reads a file *.jsonl"),
        ("choices", "", "is empty"),
        ("choices", "{", "line 1: no valid JSON"),
        ("choices", '\n{"choices": ["a", "b"], "answer": 0}', 'line 2 lacks the field "prompt", or "question"'),
        ("choices", '{"prompt": "a", "choices": ["a"], "answer": 0}', "choices are two texts or more"),
        ("choices", '{"prompt": "a", "choices": ["a", " "], "answer": 0}', "none of them blank"),
        ("choices", '{"prompt": "a", "choices": ["a", "b"], "answer": 2}', "answer is a place from 0 to 1"),
        ("choices", '{"prompt": "a", "choices": ["a", "b"], "answer": "c"}', "or one of the choices; got 'c'"),
        ("choices", '{"prompt": "a", "choices": ["a", "\u00e9"], "answer": 0}', "line 1: '\u00e9' is no token of the model"),
        ("choices", json.dumps({"prompt": "", "choices": ["a", "b" * 64], "answer": 0}), "65 tokens is longer than the 64"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_be_is_said_in_one_line(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str, content: str, says: str
) -> None:
    file = tmp_path / ("file.jsonl" if metric == "choices" and content != "abc" else "file.txt")
    file.write_text(content, encoding="utf-8")
    assert front.main(["evaluate", str(runs["GPT/GPT2"]), "--with", metric, str(file)]) == 1
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--with", "choices"], "--with choices takes one FILE after it; got none"),
        (["--with", "bits_per_byte", "a", "b"], "takes one FILE after it; got a b"),
        (["--with", "bits_per_byte", "text", "--stride", "65"], "--stride has to be from 1 to 64; got 65"),
        (["--with", "bits_per_byte", "missing.txt"], "missing.txt does not exist"),
        (["--with", "bits_per_byte", "text", "--labels", "1%"], "--data and --labels do not go with a FILE"),
        (["--stride", "2"], "--stride goes with --with bits_per_byte FILE"),
    ],
)
def test_a_wrong_call_is_said_in_one_line(
    runs: dict[str, Path], files: dict[str, str], capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert front.main(["evaluate", str(runs["GPT/GPT2"]), *(files.get(flag, flag) for flag in flags)]) == 1
    assert says in capsys.readouterr().err


def test_a_run_of_no_language_model_is_refused(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert front.main(["evaluate", str(write_run(tmp_path / "run")), "--with", "bits_per_byte", files["text"]]) == 1
    assert "is a run of CNN/LeNet, which is no language model" in capsys.readouterr().err


def language_models() -> list[str]:
    """Return the models with a command that continues a text, but those that share one which refuses their runs, as Seq2Seq
    does, and those whose runs begin from a run of SFT."""
    others = {"RNN/BahdanauAttention", "RNN/Seq2Seq", "RNN/TextCNN", "RNN/Word2Vec", "Alignment/DPO", "Alignment/GRPO"}
    found = []
    for recipe in catalogue.names():
        with contextlib.suppress(UnknownName):
            verbs.find_command("generate", recipe)
            found.append(recipe)
    return [recipe for recipe in found if recipe not in others]


@pytest.mark.parametrize("recipe", language_models())
def test_every_language_model_is_measured_and_reads_a_long_text_in_parts(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = likelihoods.load(Run.open(write_run(tmp_path / "run", recipe)), "bits_per_byte")
    ids = tokens.encode("abcacbba" * 12)  # more than the context of most
    at_once = text_log_probs(model, ids, 4)
    monkeypatch.setattr(likelihood, "AT_ONCE", 7)
    assert len(at_once) == 95 and at_once.max() < 0
    torch.testing.assert_close(text_log_probs(model, ids, 4), at_once, atol=1e-4, rtol=0)
