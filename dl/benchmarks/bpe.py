"""Speed of our BPE beside tokenizers (Rust) and tiktoken (Rust), on one thread.

    python -m dl.benchmarks.bpe --text data/wikitext-2/wiki.train.tokens

Training: 8,000 merges of the first 10 MB. Encoding: the first 2 MB by the merges that ours has learnt, once with no word met
before and once more. Seconds are of the processor, not of the clock.
"""

import argparse
import os
import sys
import time
from typing import Sequence

from dl.benchmarks import common
from dl.benchmarks.common import timed
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.mytorch.config import user_path

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # tiktoken's of GPT-2


def measure(text: str, merges: int, encoded_bytes: int) -> dict[str, dict[str, float]]:
    """Return what was done -> who did it -> seconds of training, or megabytes a second. All have to come to the same tokens."""
    import tiktoken
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = words
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=words.alphabet(), show_progress=False)
    training = {}
    training["ours"], bpe = timed(lambda: BPE.train(text, 256 + merges, special=[]), time.process_time)
    training["tokenizers"], _ = timed(lambda: theirs.train_from_iterator([text], trainer), time.process_time)
    ranks = {token: i for i, token in enumerate(bpe.tokens)}
    tik = tiktoken.Encoding("measured", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    part = text.encode()[:encoded_bytes].decode(errors="ignore")
    size = len(part.encode()) / 1e6
    rates = []
    for _ in range(2):
        times, ids = {}, {}
        times["ours"], ids["ours"] = timed(lambda: bpe.encode(part), time.process_time)
        times["tokenizers"], ids["tokenizers"] = timed(lambda: theirs.encode(part).ids, time.process_time)
        times["tiktoken"], ids["tiktoken"] = timed(lambda: tik.encode_ordinary(part), time.process_time)
        if not ids["ours"] == ids["tokenizers"] == ids["tiktoken"]:
            raise RuntimeError("the three do not agree on the tokens")
        rates.append({name: size / taken for name, taken in times.items()})
    return {"training, s": training, "encoding, MB/s": rates[0], "again, MB/s": rates[1]}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Speed of BPE beside tokenizers and tiktoken.")
    parser.add_argument("--text", type=user_path, required=True, help="file of text in UTF-8")
    parser.add_argument("--bytes", type=int, default=10_000_000, help="that are learnt from (default: %(default)s)")
    parser.add_argument("--merges", type=int, default=8000, help="to learn (default: %(default)s)")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    text = options.text.read_bytes()[: options.bytes].decode(errors="ignore")
    figures = measure(text, options.merges, options.bytes // 5)
    write(common.about_this_machine(options.command) | {"figures": figures}, options.out)
    for what, by_name in figures.items():
        print(f"{what:16}" + "".join(f"{name:>14} {figure:6.2f}" for name, figure in by_name.items()))


if __name__ == "__main__":
    sys.exit(main())
