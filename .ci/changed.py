"""What to test slowly, one path a line: where something has changed since the merge base, or in the day before HEAD."""

import random
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 6  # model folders
MOST_FILES = 24  # test files outside of them
MARKED = re.compile(r"mark\.(slow|parity|gpu)")


def git(*words: str) -> list[str]:
    """The lines that git answers with; none if it fails, as for a branch that is not there."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_files() -> list[str]:
    base = git("merge-base", "HEAD", "origin/main") or git("merge-base", "HEAD", "main")
    a_day_before = int(git("log", "-1", "--format=%ct")[0]) - 24 * 60 * 60
    since_base = git("diff", "--name-only", base[0], "HEAD") if base else []
    return since_base + git("log", f"--since=@{a_day_before}", "--format=", "--name-only")


def targets(changed: list[str], seed: str, root: Path = ROOT) -> list[str]:
    """The model folders and, elsewhere, the test files with slow tests for these files: six and 24 of more, drawn by `seed`.

    A file that a category shares stands for all of its models. What was not drawn is tested in the week's job.
    """
    models = {path.parent for path in root.glob("dl/modules/*/*/__init__.py")}
    folders: set[Path] = set()
    others: set[Path] = set()
    for path in (root / name for name in changed):
        if path.parent.parent == root / "dl/modules":
            folders |= {model for model in models if model.parent == path.parent}
            others |= set(path.parent.glob("test_*.py"))
        elif root / "dl/modules" in path.parents:
            folders |= models.intersection(path.parents)
        elif path.parent == root / "dl":
            others |= set(path.parent.glob("test_*.py"))
        elif root / "dl" in path.parents:
            others.add(root / "dl" / path.relative_to(root / "dl").parts[0])
    tests = {test for path in others for test in (path.rglob("test_*.py") if path.is_dir() else [path]) if test.exists()}
    files = [test for test in tests if MARKED.search(test.read_text(encoding="utf-8"))]
    draw = random.Random(seed)
    drawn = [sorted(draw.sample(sorted(of), min(most, len(of)))) for of, most in ((folders, MOST), (files, MOST_FILES))]
    return [path.relative_to(root).as_posix() for of in drawn for path in of]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{target}\n" for target in targets(changed_files(), git("rev-parse", "HEAD")[0])))
