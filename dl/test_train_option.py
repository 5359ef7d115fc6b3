"""`pytest --train` collects recipes instead of tests, and runs them for real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LENET = "dl/modules/CNN/LeNet"


def run_pytest(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_train_option_trains_and_leaves_a_run(tmp_path: Path) -> None:
    flags = f"--data fashion_mnist-sample --model tiny --epochs 1 --out {tmp_path}/run"
    done = run_pytest("--train", LENET, f"--train-args={flags}")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    history = json.loads((tmp_path / "run" / "history.json").read_text(encoding="utf-8"))
    assert history[-1]["test"]["top1_error"] < 0.8  # of ten classes, in a few steps of a tiny network: it has learnt
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["recipe"] == "CNN/LeNet"


@pytest.mark.slow
def test_a_training_that_fails_is_a_failed_test(tmp_path: Path) -> None:
    done = run_pytest("--train", LENET, f"--train-args=--data fashion_mnist-sample --lr 1e9 --out {tmp_path}/run")
    assert done.returncode == 1 and "not finite at step" in done.stdout + done.stderr, done.stdout


@pytest.mark.slow
def test_collection_names_tests_without_the_option_and_recipes_with_it() -> None:
    tests = run_pytest("--collect-only", "-q", LENET).stdout
    assert f"{LENET}/test_model.py::test_recipe_resumes_exactly" in tests and "train.py" not in tests
    recipes = run_pytest("--collect-only", "-q", "--train", LENET).stdout
    assert f"{LENET}/train.py::train" in recipes and "test_model" not in recipes
