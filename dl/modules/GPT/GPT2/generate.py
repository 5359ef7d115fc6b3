"""Continue a text, with a network of yours or with a published one.

    python -m dl.modules.GPT.GPT2.generate "ROMEO:"                        # the run in runs/GPT/GPT2
    python -m dl.modules.GPT.GPT2.generate runs/GPT/GPT2-gpu "ROMEO:" --temperature 0.9 --top-k 50 --seed 1
    python -m dl.modules.GPT.GPT2.generate gpt2 "The meaning of life is"   # OpenAI's weights, which transformers fetches
"""

import sys
from pathlib import Path
from typing import Sequence

from dl.cli.runs import Run
from dl.modules.GPT import command
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.command import Writer
from dl.modules.GPT.GPT2.convert import from_transformers
from dl.mytorch.config import UserError
from dl.mytorch.files import read_json
from dl.mytorch.torchvision_compat import import_torchvision

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def published(name: str) -> Writer:
    """OpenAI's weights by their name, or a folder that transformers' `save_pretrained` wrote, with the tokenizer's files.

    Raises `UserError` when they are not to be had, damaged, or of another network.
    """
    if name not in PUBLISHED:
        kind = read_json(Path(name) / "config.json", {"model_type?": str}).get("model_type", "gpt2")
        if kind != "gpt2":
            raise UserError(f"{name} holds a network of the type {kind!r}; this is for 'gpt2'")
    import_torchvision()  # which transformers imports if it is there
    try:
        import transformers
        from transformers.utils import cached_file
    except ImportError:
        raise UserError(f"{name} is read by the package transformers: pip install transformers") from None
    place = f"openai-community/{name}" if name in PUBLISHED else name
    try:
        reference = transformers.GPT2LMHeadModel.from_pretrained(place)
        folder = Path(name)
        if name in PUBLISHED:
            folder = [Path(cached_file(place, file)).parent for file in ("vocab.json", "merges.txt")][0]
    except Exception as error:  # a damaged file makes it raise nearly anything
        raise UserError(f"{place} cannot be had ({' '.join(str(error).split())})") from None
    return from_transformers(reference), BPE.load(folder)


def load(run: str) -> Writer:
    """A run's folder, a name in `PUBLISHED`, or a folder of transformers, whose config.json names no recipe."""
    described = Path(run) / "config.json"
    if run in PUBLISHED or (described.exists() and "recipe" not in read_json(described, {})):
        return published(run)
    return command.writer(Run.open(run, "GPT/GPT2"))


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(argv, "GPT/GPT2", f"folder of a run, or {', '.join(PUBLISHED)}", load)


if __name__ == "__main__":
    sys.exit(main())
