"""What CI runs slowly is what has changed; what the workflows name is there."""

import importlib.util
import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

targets = runpy.run_path(str(ROOT / ".ci" / "changed.py"))["targets"]
FILES = [f"dl/modules/{name}/{file}" for name in ("CNN/A", "CNN/B", "RNN/C") for file in ("__init__.py", "results/a.json")]
FILES += [
    "dl/modules/CNN/shared.py",
    "dl/modules/CNN/test_shared.py",
    "dl/mytorch/data/images/idx.py",
    "dl/mytorch/data/test_quick.py",
    "dl/mytorch/data/test_slow.py",
    "dl/test_main.py",
    "dl/main.py",
]
SLOW = ("test_shared.py", "test_slow.py", "test_main.py")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["dl/modules/CNN/A/results/a.json"], ["dl/modules/CNN/A"]),
        (["dl/modules/CNN/A/gone.py", "dl/modules/RNN/C/__init__.py"], ["dl/modules/CNN/A", "dl/modules/RNN/C"]),
        (["dl/modules/CNN/shared.py"], ["dl/modules/CNN/A", "dl/modules/CNN/B", "dl/modules/CNN/test_shared.py"]),
        (["dl/mytorch/data/images/idx.py"], ["dl/mytorch/data/test_slow.py"]),
        (["dl/main.py"], ["dl/test_main.py"]),
        (["README.md", "dl/modules/gone/D/model.py"], []),
    ],
)
def test_changed_files_name_what_is_tested_slowly(tmp_path: Path, changed: list[str], expected: list[str]) -> None:
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("pytestmark = pytest.mark.slow" if file.endswith(SLOW) else "", encoding="utf-8")
    assert targets(changed, "commit", tmp_path) == expected


def test_of_more_than_24_test_files_24_are_drawn_by_the_commit() -> None:
    draws = [targets(["dl/mytorch/config.py", "dl/cli/main.py", "dl/benchmarks/common.py"], seed) for seed in ("a", "a", "b")]
    assert draws[0] == draws[1] != draws[2] and all(len(set(draw)) == 24 for draw in draws)


def test_of_more_than_six_folders_six_are_drawn_by_the_commit() -> None:
    draws = [targets(["dl/modules/CNN/shared.py", "dl/modules/RNN/shared.py"], seed) for seed in ("a", "a", "b")]
    folders = [[path for path in draw if not path.endswith(".py")] for draw in draws]
    assert folders[0] == folders[1] != folders[2] and all(len(draw) == 6 for draw in folders)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_yaml_whose_jobs_have_a_system_and_steps(path: Path) -> None:
    jobs = pytest.importorskip("yaml").safe_load(path.read_text(encoding="utf-8"))["jobs"]
    for name, job in jobs.items():
        assert job["runs-on"] and all(("run" in step) != ("uses" in step) for step in job["steps"]), name


def test_what_the_workflows_run_is_there() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*WORKFLOWS, ROOT / ".ci" / "run"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"(?:run: |^)make (\w+)", text, re.MULTILINE) if f"\n{name}:" not in makefile] == []
    assert [name for name in re.findall(r"\.ci/[\w.]+", text) if not (ROOT / name).is_file()] == []
    assert [name for name in re.findall(r"python -m ([\w.]+)", text) if importlib.util.find_spec(name) is None] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {name for names in re.findall(r"\.\[([\w,]+)\]", text) for name in names.split(",")} <= extras.keys()


def test_the_hooks_are_the_steps_of_make_check() -> None:
    hooks = re.findall(r"entry: \.venv/bin/python -m (.*)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ncheck:")[2].partition("\n\n")[0]
    assert [hook.replace(" --force-exclude", "") for hook in hooks] == re.findall(r"\$\(BIN\)/python -m (.*)", recipe)


def test_the_container_makes_what_the_editor_uses() -> None:
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    target = settings["postCreateCommand"].removeprefix("make ")
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].endswith("/.venv/bin/python")


def test_pins_agree() -> None:
    """constraints.txt would else make what requirements.txt asks for impossible to install."""
    pins = [
        dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.txt", "constraints.txt")
    ]
    assert {name: pin for name, pin in pins[0].items() if pins[1].get(name, pin) != pin} == {}
    assert len(pins[1]) > 30


def test_addresses_are_read_without_the_marks_around_them() -> None:
    addresses = runpy.run_path(str(ROOT / ".ci" / "links.py"))["addresses"]
    text = "[a](https://a.org/x_(y)), `https://b.org/c`: see https://b.org/d. (https://c.org/e), http://127.0.0.1:7860"
    assert addresses(text) == ["https://a.org/x_(y)", "https://b.org/c", "https://b.org/d", "https://c.org/e"]
