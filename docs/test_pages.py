"""The parts of a model's page: proof, curves, how to run it; and what stops the build. Skipped without the extra [docs]."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("latex2mathml", reason='latex2mathml is not installed: pip install -e ".[docs]"')
pytest.importorskip("yaml", reason='pyyaml is not installed: pip install -e ".[docs]"')
sys.path.insert(0, str(Path(__file__).parent))

import build
import curves
import guides
import model_page
import proof
from prose import ROOT

from dl.cli import catalogue
from dl.mytorch.config import UserError
from dl.mytorch.testing import proofs

WORDS = model_page.words_of(build.HERE / "words.json", "en")
MINUTE = json.loads((build.HERE / "minute.json").read_text(encoding="utf-8"))


# ---- proof -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model "A/Net" of a test against its twin and another one, with a proof of both."""
    folder = tmp_path / "dl/modules/A/Net"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("model\n", encoding="utf-8")
    (folder / "test_model.py").write_text("def test_it_is_its_twin(): ...\ndef test_sizes(): ...\n", encoding="utf-8")
    (tmp_path / "docs").mkdir()
    row = "| Wrong: [x#1](https://x.org) | [a law](../dl/modules/A/Net/test_model.py) | x.py: `0` |"
    (tmp_path / "docs/public-errors.md").write_text(f"{row}\n{row.replace('A/Net', 'A/Other')}\n", encoding="utf-8")
    test = {"outputs": 2e-16, "gradients": 3e-17, "weights": 0.0, "tolerance": 1e-9, "cases": 4, "parity": True}
    sizes = {"tolerance": 1e-9, "cases": 1, "parity": False}
    measured = {
        **{"commit": "0123456789", "versions": {"torch": "2.13", "dl": "1"}, "processor": "abacus", "capability": "none"},
        **{"model.py": proofs._sha256(folder / "model.py"), "skipped": []},
        "tests": {
            "test_model.py::test_it_is_its_twin": test,
            "test_model.py::test_sizes": sizes,
        },
    }
    (folder / "proof.json").write_text(json.dumps(measured), encoding="utf-8")
    monkeypatch.setattr(proof, "ROOT", tmp_path)
    return folder


def test_the_differences_from_twins_stand_on_the_page_with_versions_and_commit(net: Path) -> None:
    shown = proof.section("A/Net", WORDS)
    assert "| it is its twin (4 x) | 2.0e-16 | 3.0e-17 | 0 | 1e-09 |" in shown and "| sizes" not in shown
    assert "commit 0123456 with torch 2.13 on abacus" in shown and WORDS["stale"] not in shown
    assert shown.count("](../../../../dl/modules/A/Net/test_model.py)") == 1 and "A/Other" not in shown


def test_the_name_of_a_test_is_a_sentence() -> None:
    assert proof.sentence("test_block_is_torch_s_in_three_steps") == "block is torch's in three steps"
    assert proof.sentence("test_steps_are_theirs") == "steps are theirs"


def test_values_of_another_library_stand_beside_them(net: Path) -> None:
    measured = json.loads((net / "proof.json").read_text(encoding="utf-8"))
    measured["tests"]["test_model.py::test_sizes"] |= {"values": 3e-12, "parity": True}
    (net / "proof.json").write_text(json.dumps(measured), encoding="utf-8")
    shown = proof.section("A/Net", WORDS)
    assert f"{WORDS['weights']} | {WORDS['compared']} | {WORDS['tolerance']} |" in shown
    assert "| sizes |  |  |  | 3.0e-12 | 1e-09 |" in shown and "| it is its twin (4 x) | 2.0e-16 | 3.0e-17 | 0 |  |" in shown


def test_a_page_says_that_its_proof_is_missing_or_older_than_its_model_or_tests(net: Path) -> None:
    said = f"*{WORDS['stale']}* `pytest --proof dl/modules/A/Net`"
    (net / "test_model.py").write_text("def test_sizes(): ...\n", encoding="utf-8")
    assert said in proof.section("A/Net", WORDS) and "its twin" not in proof.section("A/Net", WORDS)
    (net / "test_model.py").write_text("def test_it_is_its_twin(): ...\ndef test_sizes(): ...\n", encoding="utf-8")
    (net / "model.py").write_text("another\n", encoding="utf-8")
    assert said in proof.section("A/Net", WORDS)
    (net / "proof.json").unlink()
    assert f"*{WORDS['not measured']}*" in proof.section("A/Net", WORDS)


def test_every_proof_in_the_repository_can_be_read() -> None:
    for path in catalogue.MODULES.glob("*/*/proof.json"):
        assert proofs.read(path.parent) is not None


# ---- deviations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", build.model_names())
def test_every_page_says_how_the_model_deviates_from_its_paper(name: str) -> None:
    readme = (ROOT / "dl/modules" / name / "README.md").read_text(encoding="utf-8")
    assert "\n## Deviations\n" in readme or len(model_page.deviations(name)) > 4


# ---- curves ----------------------------------------------------------------------------------------------------------


def record(path: Path, curve: dict[str, list[Any]]) -> dict[str, Any]:
    return {"path": path, "curve": curve}


def test_every_point_of_a_curve_tells_its_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    curve = {"step": [0, 10, 20], "train top1_error": [0.5, None, 0.25], "val top1_error": [0.6, 0.5, 0.4]}
    groups = {"set": ("top1_error", [{"path": Path("old.json")}, record(Path("new.json"), curve)])}
    monkeypatch.setattr(curves.results, "default_group", lambda name: None)
    monkeypatch.setattr(curves.results, "best_groups", lambda name: groups)
    shown = curves.section("A/Net", WORDS)
    assert shown.count("<svg") == 1 and shown.count("<circle") == 5 and shown.count("<tr>") == 4
    assert "<title>step 10, validation: top-1 error 50.00 %</title>" in shown and "[new](results/new.json)" in shown
    assert 'role="img" aria-label="A/Net, top-1 error, step 0 - 20. training: 50.00 % - 25.00 %' in shown
    assert "<td>-</td>" in shown  # what was no finite number
    curve["train top1_error"] = [None, None, None]  # not measured in training: no line
    assert curves.section("A/Net", WORDS).count('d="M') == 3  # axis, legend and line of the validation
    groups["set"] = ("top1_error", [{"path": Path("old.json")}])
    assert curves.section("A/Net", WORDS) == f"*{WORDS['no curve']}*"
    (tmp_path / "curves.png").touch()  # which the page shows
    groups["set"] = ("top1_error", [{"path": tmp_path / "old.json"}])
    assert curves.section("A/Net", WORDS) == ""
    groups.clear()  # nothing is recorded
    assert curves.section("A/Net", WORDS) == ""


def test_returns_rise_where_their_negative_falls() -> None:
    drawn = curves.svg("A/Net", "negative_return", [0, 10], {"val": [-20.0, -500.0]}, WORDS)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', drawn)]
    assert heights[0] > heights[1] and "return 500.0" in drawn


# ---- contrast --------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Return the relative luminance of "#rrggbb" as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_curves_stand_out_on_both_backgrounds() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    found = re.findall(r"--(?:train|val): (#[0-9a-f]{6})", (build.HERE / "site.css").read_text(encoding="utf-8"))
    assert len(found) == 4
    for colour, background in zip(found, ("#ffffff", "#ffffff", "#1e2129", "#1e2129")):  # the theme's, light and dark
        assert contrast(colour, background) >= 4.5, colour


# ---- commands --------------------------------------------------------------------------------------------------------


def test_every_model_says_how_to_run_it_in_a_minute() -> None:
    assert MINUTE.keys() == set(build.model_names())
    assert "--data fashion_mnist-sample" in model_page.run_it("CNN/LeNet", WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, flags in MINUTE.items() if flags is not None])
def test_the_minute_s_command_trains(name: str, tmp_path: Path) -> None:
    from dl.mytorch import parse

    recipe = catalogue.module(name, "train")
    config = parse(recipe.Config, [*MINUTE[name].split(), "--out", str(tmp_path / "run"), "--no-plots", "--device", "cpu"])
    config = dataclasses.replace(config, **({"env_steps": 300} if hasattr(config, "env_steps") else {"steps": 1}))
    try:
        assert recipe.main(config)
    except UserError as error:
        if "sample" not in MINUTE[name]:
            pytest.skip(f"its data or an extra is not here: {error}")
        raise


# ---- what stops the build --------------------------------------------------------------------------------------------


def test_a_layer_that_the_model_does_not_have_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "dl/modules/CNN/LeNet/README.md").read_text(encoding="utf-8")
    table = re.findall(r"^```\n(layer .*?)^```", readme, re.MULTILINE | re.DOTALL)[0]
    model_page.check_layers("CNN/LeNet", readme, table)
    model_page.check_layers("CNN/LeNet", readme, "")  # the layers of all presets
    for changed in (readme.replace("\nc3 ", "\nconv3 "), readme.replace("c3      Conv2d    ", "c3      Linear    ")):
        assert changed != readme
        with pytest.raises(ValueError, match=r"shows the layer (conv3|c3) \((Conv2d|Linear)\), which model.py does not have"):
            model_page.check_layers("CNN/LeNet", changed, table)


def test_only_places_in_lists_do_not_matter() -> None:
    table = "layer  type  output shape  parameters  FLOPs\na.0  Block  1  3  4\n  fc1  Linear  1  1  2\na.1  Block  1  0  0"
    assert model_page.diagram.rows(table) == {("a.#", "Block"), ("fc1", "Linear")}


@pytest.mark.parametrize("link", ["![kernels](results/gone.png)", "[the task](gone.py)"])
def test_a_figure_or_link_that_is_gone_stops_the_build(link: str, tmp_path: Path) -> None:
    links = build.Links({}, tmp_path)
    with pytest.raises(ValueError, match="dl/modules/CNN/LeNet/.*gone.* is linked, and is not there"):
        links.rewritten(link, "dl/modules/CNN/LeNet/README.md", "models/CNN/LeNet.md")


def test_signatures_are_short_and_say_what_they_take() -> None:
    text = guides.signature("Trainer", build.guides.dl.mytorch.Trainer)
    assert "model: Module" in text and "torch" not in text and max(map(len, text.splitlines())) <= 160
    assert guides.signature("f", lambda a, b=int: None) == "f(a, b=int)"
