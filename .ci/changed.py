"""What to test slowly, one path a line: where something has changed since the merge base, or in the day before HEAD."""

import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 6  # model folders


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
    """The folders and test files for these files: of more than six model folders, six that `seed` draws.

    A file that a category shares stands for all of its models.
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
    drawn = random.Random(seed).sample(sorted(folders), min(MOST, len(folders)))
    return [path.relative_to(root).as_posix() for path in (*sorted(drawn), *sorted(others)) if path.exists()]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{target}\n" for target in targets(changed_files(), git("rev-parse", "HEAD")[0])))
