"""Files of preference pairs, and pairs as tokens."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dl.modules.Alignment.DPO.pairs import Ids, Pair, batch_of, encode, read_pairs, write_pairs
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.mytorch.config import UserError

TWO = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "b"}]


def written(folder: Path, rows: list[Any], name: str = "pairs.jsonl") -> Path:
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder / name


def test_pairs_are_read_in_three_forms_from_json_and_json_lines(tmp_path: Path) -> None:
    assert read_pairs(written(tmp_path, TWO))[0] == read_pairs(written(tmp_path, [TWO]))[0] == [Pair("a", "b", "c")]
    instructed = {"instruction": "Add.", "input": "1 1", "output": "2", "chosen": "2", "rejected": "3"}
    plain = {**instructed, "input": ""}
    found, _ = read_pairs(written(tmp_path, [[instructed, plain]]))
    assert found == [Pair("Add.\n1 1\n", "2", "3"), Pair("Add.\n", "2", "3")]
    begun = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant:"
    dialogue = {"chosen": f"{begun} no", "rejected": f"{begun} yes"}
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(dialogue).encode() + b"\n"))
    assert read_pairs(path) == ([Pair(begun, " no", " yes")], 0)


def test_pairs_of_one_answer_and_of_different_dialogues_are_left_out(tmp_path: Path) -> None:
    assert read_pairs(written(tmp_path, TWO)) == ([Pair("a", "b", "c")], 1)
    chosen = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"
    parted = ["\n\nHuman: a\n\nAssistant: x\n\nHuman: c\n\nAssistant: e", chosen + "\n\nHuman: f\n\nAssistant: g"]
    rows = [{"chosen": chosen, "rejected": rejected} for rejected in parted]
    assert read_pairs(written(tmp_path, [*TWO, *rows]))[1] == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "line 2 lacks the field rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": 1}, "line 2: rejected has to be text; got 1"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "line 2: the prompt or an answer is empty"),
        ({"chosen": "b", "rejected": "c"}, "line 2 has neither a prompt nor an instruction"),
        ([1], "line 2: its content has to be an object"),
    ],
    ids=str,
)
def test_what_is_no_pair_is_named_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pairs(written(tmp_path, [TWO[0], row]))


def test_files_without_pairs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text('{"prompt": 1', encoding="utf-8")
    with pytest.raises(UserError, match="broken, line 1 is no valid JSON"):
        read_pairs(tmp_path / "broken")
    with pytest.raises(UserError, match="no pair of different answers"):
        read_pairs(written(tmp_path, TWO[1:]))


def test_written_pairs_are_read_with_their_parts(tmp_path: Path) -> None:
    pairs = [Pair("a é", "b", "c", "train"), Pair("d\n", "e", "f", "val")]
    write_pairs(pairs, tmp_path / "pairs.jsonl")
    assert read_pairs(tmp_path / "pairs.jsonl") == (pairs, 0)


def test_a_prompt_has_the_same_tokens_before_any_answer_and_no_text_makes_an_end_mark() -> None:
    bpe = BPE.train("to be or not to be " * 9, 262)
    end = list(bpe.special.values())
    (ids,) = encode([Pair("to", " be", " <|endoftext|>")], bpe, end)
    assert ids.prompt == bpe.encode("to") and ids.chosen == [*bpe.encode(" be"), *end]
    assert ids.rejected.count(end[0]) == 1 and ids.rejected[-1] == end[0]


def test_a_mismatched_text_is_a_prompt_with_an_answer_to_the_next_other_one() -> None:
    pairs = [Ids([1], [2, 2], [3]), Ids([1], [4], [5]), Ids([6, 6], [7], [8, 8, 8])]
    batch = batch_of(pairs, longest=4)
    assert batch["prompt_length"].tolist() == [1, 1, 2]
    assert batch["chosen"].tolist() == [[1, 2, 2, 0], [1, 4, 0, 0], [6, 6, 7, 0]]
    assert batch["chosen_length"].tolist() == [3, 2, 3]
    texts = [row[:length] for row, length in zip(batch["mismatched"].tolist(), batch["mismatched_length"].tolist())]
    assert texts == [[1, 7], [1, 8, 8, 8], [6, 6, 2, 2]]
    assert batch_of(pairs, longest=3)["mismatched_length"].tolist() == [2, 3, 3]
    assert batch_of(pairs[:2], longest=3)["mismatched"].shape == (2, 3)  # of one prompt alone there is no other
