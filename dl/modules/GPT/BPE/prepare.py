"""Turn text files into a folder that the recipes of GPT-2 and Llama train on: tokens.bin and its word pieces.

    python -m dl.modules.GPT.BPE.prepare data/mine book.txt other.txt --vocab-size 8000     # pieces of this text
    python -m dl.modules.GPT.BPE.prepare data/mine book.txt other.txt --bpe data/gpt2_bpe   # pieces of GPT-2's files
    python -m dl.modules.GPT.GPT2.train --data folder:data/mine --context-length 256

A file is a document. They are packed: one follows the other, an <|endoftext|> after each. Files are read in parts, so they
may be larger than memory.
"""

import argparse
import re
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Iterator, Sequence

from dl.cli.command import command
from dl.modules.GPT.BPE.tokenizer import BPE, END_OF_TEXT
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data.text.tokens import MOST, write_tokens
from dl.mytorch.files import regular_file

PART = 2**20  # characters
LEARNT_FROM = 10  # parts of each file


def parts(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file in parts of about `PART` characters, cut where no word is: before a line's end, else before a
    single space.

    Raises `UserError` when it is missing, no regular file, or no UTF-8.
    """
    rest = ""
    try:
        with open(regular_file(path), encoding="utf-8-sig", newline="") as file:  # a byte order mark is no part of the text
            while more := file.read(PART):
                rest += more
                cut = _last(r"\n(?=\S)", rest) or _last(r"(?<=\S) (?=\S)", rest)
                if cut:
                    yield rest[:cut]
                    rest = rest[cut:]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if rest:
        yield rest


def _last(pattern: str, text: str) -> int:
    """Return where a pattern begins last in a text; 0 if nowhere."""
    return max((place.start() for place in re.finditer(pattern, text)), default=0)


def prepare(out: Path, texts: Sequence[Path], vocab_size: int, bpe: BPE | None = None) -> tuple[BPE, int]:
    """Write `out`; gives the word pieces and the number of tokens.

    The pieces are learnt from the first 10 MB of each file, unless they are given. Raises `UserError` when there are tokens in
    `out` already: a training may be reading them.
    """
    if (out / "tokens.bin").exists():
        raise UserError(f"{out} holds tokens already, which a training may be reading: name another folder, or delete this one")
    bpe = bpe or BPE.train((part for path in texts for part in islice(parts(path), LEARNT_FROM)), vocab_size)
    if len(bpe) > MOST:
        raise UserError(f"a vocabulary of {len(bpe):,} does not fit into two bytes a token: {MOST:,} at most")
    if END_OF_TEXT not in bpe.special:
        raise UserError(f"the vocabulary has no {END_OF_TEXT}, which ends each document: leave out --bpe to learn one with it")
    end = [bpe.special[END_OF_TEXT]]
    bpe.save(out)
    encoded = (chain(map(bpe.encode, parts(path)), [end]) for path in texts)
    return bpe, write_tokens(out / "tokens.bin", chain.from_iterable(encoded))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m dl.modules.GPT.BPE.prepare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=user_path, metavar="OUT", help="folder to write")
    parser.add_argument("texts", type=user_path, nargs="+", metavar="TEXT", help="file of text in UTF-8, a document")
    parser.add_argument("--vocab-size", type=int, default=8000, help="tokens to learn (default: %(default)s)")
    parser.add_argument(
        "--bpe", type=user_path, help="folder of a vocabulary that is there, say GPT-2's, in place of one to learn"
    )
    return parser.parse_intermixed_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    given = BPE.load(options.bpe) if options.bpe else None
    bpe, count = prepare(options.out, options.texts, options.vocab_size, given)
    size = sum(path.stat().st_size for path in options.texts)
    print(f"{options.out}: {count:,} tokens of {len(bpe):,} kinds, {size / count:.2f} bytes each")


if __name__ == "__main__":
    sys.exit(main())
