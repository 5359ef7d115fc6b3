"""The way from the start page to a trained and compared GPT-2, walked in a clean clone."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_command_on_the_way_to_a_compared_gpt2_runs_in_a_clean_clone(tmp_path: Path) -> None:
    """As on the page, but for fewer steps of training."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git repository")
    clone = tmp_path / "dl"
    subprocess.run([git, "clone", "-q", str(ROOT), str(clone)], check=True)
    text = (clone / "docs/first-steps.md").read_text(encoding="utf-8")
    commands = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    assert len(commands) >= 7
    said = {}
    for command in commands:
        program, *words = shlex.split(command.replace("--steps 300", "--steps 3"))
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *words],
            cwd=clone,
            env=os.environ | {"PYTHONPATH": str(clone), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        said[command] = done.stdout
    assert (clone / "runs/GPT/GPT2-slow/best.pt").exists() and (clone / "runs/GPT/compare.png").exists()
    assert "ROMEO:" in next(text for command, text in said.items() if " generate " in command)
    compared = next(text for command, text in said.items() if " compare " in command)
    assert re.search(r"^GPT2-fast +0\.003 ", compared, re.MULTILINE)
    assert re.search(r"\d passed", said[commands[-1]])
