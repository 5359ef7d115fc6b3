"""What CI runs slowly is what has changed."""

import runpy
from pathlib import Path

import pytest

targets = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "changed.py"))["targets"]
FILES = [f"dl/modules/{name}/{file}" for name in ("CNN/A", "CNN/B", "RNN/C") for file in ("__init__.py", "results/a.json")]
FILES += ["dl/modules/CNN/shared.py", "dl/modules/CNN/test_shared.py", "dl/mytorch/data/images/idx.py", "dl/test_main.py", "dl/main.py"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["dl/modules/CNN/A/results/a.json"], ["dl/modules/CNN/A"]),
        (["dl/modules/CNN/A/gone.py", "dl/modules/RNN/C/__init__.py"], ["dl/modules/CNN/A", "dl/modules/RNN/C"]),
        (["dl/modules/CNN/shared.py"], ["dl/modules/CNN/A", "dl/modules/CNN/B", "dl/modules/CNN/test_shared.py"]),
        (["dl/mytorch/data/images/idx.py"], ["dl/mytorch"]),
        (["dl/main.py"], ["dl/test_main.py"]),
        (["README.md", "dl/modules/gone/D/model.py"], []),
    ],
)
def test_changed_files_name_what_is_tested_slowly(tmp_path: Path, changed: list[str], expected: list[str]) -> None:
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert targets(changed, "commit", tmp_path) == expected


def test_of_more_than_six_folders_six_are_drawn_by_the_commit() -> None:
    draws = [targets(["dl/modules/CNN/shared.py", "dl/modules/RNN/shared.py"], seed) for seed in ("a", "a", "b")]
    folders = [[path for path in draw if not path.endswith(".py")] for draw in draws]
    assert folders[0] == folders[1] != folders[2] and all(len(draw) == 6 for draw in folders)
