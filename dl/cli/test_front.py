"""The front page: its tables, and that both languages say the same."""

import re

import pytest

from dl.cli import catalogue, front, records

READMES = [(catalogue.ROOT / name).read_text(encoding="utf-8") for name in front.ABOUT["headings"]]


def test_every_model_stands_in_one_group_of_at_most_14() -> None:
    groups = front.ABOUT["groups"].values()
    assert sorted(name for names in groups for name in names) == catalogue.names() == sorted(front.ABOUT["proven"])
    assert all(len(names) <= 14 for names in groups)


@pytest.mark.parametrize("name", catalogue.names())
def test_the_reference_of_a_model_is_used_by_its_tests(name: str) -> None:
    files = [catalogue.MODULES / name, catalogue.MODULES / name.partition("/")[0]]
    tests = "".join(path.read_text(encoding="utf-8") for folder in files for path in folder.glob("test_*.py"))
    for library in re.findall("torchvision|transformers|diffusers|lstsq|LSTM|GRU|Transformer|[Tt]win", front.ABOUT["proven"][name]):
        assert library.lower() in tests.lower()


def test_a_row_is_the_paper_and_the_best_record_in_the_paper_s_unit() -> None:
    cells = front.row("Transformers/Transformer", {"medium": [6_510_000, 0]})
    assert cells[:3] == [
        "[Transformer](dl/modules/Transformers/Transformer)", "[Vaswani et al. 2017](https://arxiv.org/abs/1706.03762)", "torch (Transformer)"
    ]  # fmt: skip
    assert cells[3].startswith("WMT 2014 English-German: BLEU 28.4 (big)")
    (record,) = [record for record in records.of_model("Transformers/Transformer") if record["config"]["data"] == "multi30k"]
    figure = f"Multi30k: BLEU {100 - 100 * record['test']['bleu_error']:.2f}"
    assert cells[4] == f"[{figure}](dl/modules/Transformers/Transformer/README.md#results)"
    assert cells[5].startswith("medium 6.51M, 12 epochs, ") and cells[5].endswith(", 1 seed")


@pytest.mark.parametrize(("name", "cited"), [("CNN/ResNet", "He et al."), ("CNN/VGG", "Simonyan & Zisserman"), ("RNN/TextCNN", "Kim")])
def test_authors_are_named_as_one_cites_them(name: str, cited: str) -> None:
    assert front._authors(name) == cited


@pytest.mark.parametrize(("number", "text"), [(11, "11"), (999, "999"), (61_706, "61.7k"), (999_600, "1M"), (3_628_146_688, "3.63G")])
def test_numbers_are_shown_with_three_digits(number: int, text: str) -> None:
    assert front._brief(number) == text
