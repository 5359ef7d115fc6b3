"""Print constraints that pin each dependency of pyproject.toml to the first version that it allows."""

import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

if __name__ == "__main__":
    for requirement in PROJECT["dependencies"]:
        name, _, version = requirement.partition(">=")
        print(f"{name}=={version}.*")
