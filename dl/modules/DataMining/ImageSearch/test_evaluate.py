"""Recall and mAP against numbers worked out by hand."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dl.cli import catalogue
from dl.modules.DataMining.ImageSearch import evaluate
from dl.modules.DataMining.ImageSearch.images import open_images
from dl.mytorch.config import UserError


def test_recall_and_mean_average_precision_by_hand() -> None:
    labels = torch.tensor([0, 1, 5])
    ranked = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 1, 0]])
    assert evaluate.recall(labels, ranked, 1) == pytest.approx(1 / 3)
    assert evaluate.recall(labels, ranked, 3) == pytest.approx(2 / 3)
    # (1 + 2/3) / 2 for the first query, 1/3 for the second; the third has none of its class there.
    assert evaluate.mean_average_precision(labels, ranked) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)


def test_each_distance_ranks_by_itself() -> None:
    query, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    vectors = torch.tensor([[5.0, 0.0], [1.0, 1.1], [0.2, 0.9]])  # nearest by cosine, by L1 and L2, by neither
    for own, expected in ((torch.tensor([0, 1, 1]), [0, 0, 1]), (torch.tensor([1, 0, 1]), [1, 1, 0])):
        rows = evaluate.figures(query, labels, vectors, own)
        assert [row["distance"] for row in rows] == ["l1", "l2", "cosine"]
        assert [row["recall1"] for row in rows] == expected


def test_queries_of_classes_that_the_index_lacks_find_nothing_and_are_no_error(tmp_path: Path) -> None:
    def of_colours(read: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([image.float().mean((1, 2)) for image in read])

    of_colours.about = {"backbone": "none", "preset": "", "layer": "", "size": 3}  # type: ignore[attr-defined]
    for part, label in (("train", "ants"), ("val", "ants"), ("val", "bees"), ("other", "wasps")):
        (tmp_path / part / label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / part / label / "1.png")
    train, val, other = (open_images(str(tmp_path / part)) for part in ("train", "val", "other"))
    record = evaluate.evaluate("hymenoptera", of_colours, train, val, range(2), [], Path())  # type: ignore[arg-type]
    assert [(row["recall1"], row["map"]) for row in record["rows"]] == [(0.5, 1.0)] * 6
    with pytest.raises(UserError, match=r"no query is of a class of the index \(ants\)"):
        evaluate.evaluate("hymenoptera", of_colours, train, other, range(1), [], Path())  # type: ignore[arg-type]


def test_the_readme_shows_what_is_recorded() -> None:
    assert evaluate.table(evaluate.recorded()) in (evaluate.HERE / "README.md").read_text(encoding="utf-8")


def test_figures_are_recorded_when_asked_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n", encoding="utf-8")
    row = {"of": "features", "distance": "l2", "recall1": 0.5, "recall5": 0.75, "map": 0.25}
    record = {"data": "hymenoptera", "queries": 4, "index": 8, "network": {"backbone": "CNN/SqueezeNet"}, "rows": [row]}
    monkeypatch.setattr(evaluate, "HERE", tmp_path)
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: record)
    monkeypatch.setattr(evaluate, "Extractor", lambda *_: None)
    for part in ("train", "val"):
        (tmp_path / "ants" / part / "black").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "ants" / part / "black" / "1.png")
    asked = ["hymenoptera", str(tmp_path / "ants"), "--weights", "squeezenet.pth"]
    assert evaluate.main(asked) == 0 and "| 50.0% | 75.0% | 25.0% |" in capsys.readouterr().out
    assert not (tmp_path / "results").exists() and "50.0%" not in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert evaluate.main([*asked, "--record"]) == 0
    assert (tmp_path / "results" / "hymenoptera.json").exists()
    assert "50.0%" in (tmp_path / "README.md").read_text(encoding="utf-8")
