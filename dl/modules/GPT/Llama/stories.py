"""Tell a story with the weights of https://huggingface.co/karpathy/tinyllamas, say those in the folder stories260K there.

python -m dl.modules.GPT.Llama.stories stories260K/stories260K.bin stories260K/tok512.bin
python -m dl.modules.GPT.Llama.stories stories260K/stories260K.bin stories260K/tok512.bin --prompt "The dragon"
"""

import argparse
import re
import struct
import sys
from itertools import chain
from pathlib import Path
from typing import Iterable, Sequence

import torch

from dl.cli.command import SEEDS, check_range, command
from dl.modules.GPT.Llama.convert import from_llama2c
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.files import regular_file
from dl.mytorch.text.generation import stream

BEGIN = 1  # the token that begins a text; when it comes again, the next text begins


class Pieces:
    """The tokenizer of llama2.c: pieces of text with scores, in a file of its own format.

    Raises `ValueError` for a file that is cut off.
    """

    def __init__(self, path: Path | str) -> None:
        content = regular_file(path).read_bytes()
        self.pieces: list[bytes] = []
        self.scores: dict[bytes, float] = {}
        place = 4  # after the length of the longest piece
        try:
            while place < len(content):
                score, length = struct.unpack_from("<fi", content, place)
                (piece,) = struct.unpack_from(f"{length}s", content, place + 8)
                place += 8 + length
                self.pieces.append(piece)
                self.scores.setdefault(piece, score)
        except struct.error as error:
            raise UserError(f"{path} is cut off ({error})") from None
        self.ids = {piece: i for i, piece in reversed(list(enumerate(self.pieces)))}

    def decode(self, token: int, before: int) -> bytes:
        """Return what `token` adds to the text after the token `before`. The first piece of a text loses its space."""
        piece = self.pieces[token]
        if raw := re.fullmatch(rb"<0x([0-9A-F]{2})>", piece):
            return bytes.fromhex(raw[1].decode())
        return piece.removeprefix(b" ") if before == BEGIN else piece

    def encode(self, text: str) -> list[int]:
        """BEGIN and the ids of the text: characters, whose neighbours with the best score are joined, again and again."""
        parts = [character.encode(errors="surrogateescape") for character in f" {text}"] if text else []
        while True:
            pairs = [(self.scores[a + b], -i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in self.scores]
            if not pairs:
                break
            i = -max(pairs)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [BEGIN, *(i for part in parts for i in self._ids(part))]

    def _ids(self, part: bytes) -> Iterable[int]:
        return [self.ids[part]] if part in self.ids else [byte + 3 for byte in part]  # bytes follow three special pieces


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m dl.modules.GPT.Llama.stories", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("weights", type=user_path, help="file of weights, say stories260K.bin")
    parser.add_argument("pieces", type=user_path, help="file of its tokenizer, say tok512.bin")
    parser.add_argument("--prompt", default="", help="how the story begins")
    parser.add_argument("--tokens", type=int, default=256, help="the most tokens to add (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = the likeliest token (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="see generation.py (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    check_range("--seed", options.seed, *SEEDS)
    model, pieces = from_llama2c(options.weights), Pieces(options.pieces)
    known = model.token_embedding.num_embeddings
    if len(pieces.pieces) != known:
        raise UserError(f"{options.pieces} has {len(pieces.pieces)} pieces, {options.weights} is for {known}")
    prompt = pieces.encode(options.prompt)
    choice = {"temperature": options.temperature, "top_p": options.top_p, "seed": options.seed, "stop": [BEGIN]}
    before = BEGIN
    for token in chain(prompt[1:], stream(model, torch.tensor([prompt]), max_new_tokens=options.tokens, **choice)):
        if int(token) == BEGIN:
            break
        sys.stdout.buffer.write(pieces.decode(int(token), before))
        sys.stdout.buffer.flush()
        before = int(token)
    print()


if __name__ == "__main__":
    sys.exit(main())
