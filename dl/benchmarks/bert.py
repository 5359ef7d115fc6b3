"""Pre-training speed of our BERT-mini against that of transformers, at the same sizes.

    python -m dl.benchmarks.bert                   5 rounds, batches of 32 rows of 128 tokens
    python -m dl.benchmarks.bert --rounds 9 --batch-size 64
    OMP_NUM_THREADS=1 python -m dl.benchmarks.bert --cpu-time     on a busy machine

Both networks have 4 layers of width 256, a vocabulary of 30,522 and both heads, dropout as in the paper. All train with
fused AdamW on one batch of random words in memory, of which 15 % are masked: the same in every contender.

- transformers        BertForPreTraining in a loop written by hand, fp32
- transformers bf16   the same, its forward pass in bfloat16
- by hand             our network and task in the same loop, fp32
- Trainer             our network by `Trainer.step`, with its checks and training errors, fp32
- Trainer bf16        the same, its forward pass in bfloat16: what the recipe does where that is native

transformers computes the logits of all tokens, ours those of the masked ones. How a round goes and how figures are made
of it is said in `dl.benchmarks.common`.
"""

import argparse
import sys
import tempfile
from typing import Callable, Sequence

import torch
from torch import Tensor, nn

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.Transformers.BERT.data import SHARE
from dl.modules.Transformers.BERT.model import build
from dl.modules.Transformers.BERT.task import PreTraining
from dl.modules.Transformers.BERT.train import Config
from dl.mytorch import Trainer
from dl.mytorch.data import Batch
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.optim import adamw, constant
from dl.mytorch.torchvision_compat import import_torchvision

NAMES = ["transformers", "transformers bf16", "by hand", "Trainer", "Trainer bf16"]
VOCABULARY, MASK = 30522, 103
OPTIMIZER = adamw(1e-4, fused=True)


def pairs(rows: int, length: int) -> Batch:
    """Return a batch of random words for the task `PreTraining`, without padding."""
    words = torch.randint(1000, VOCABULARY, (rows, length))
    positions = torch.rand(rows, length).topk(round(SHARE * length)).indices  # (B, M)
    return {
        "tokens": words.scatter(1, positions, MASK),
        "segments": (torch.arange(length) >= length // 2).long().repeat(rows, 1),
        "positions": positions,
        "targets": words.gather(1, positions),
        "labels": torch.randint(2, (rows,)),
    }


def in_a_loop(model: nn.Module, loss: Callable[[], Tensor], precision: str) -> Callable[[], None]:
    """One step of the shortest loop there is."""
    optimizer = OPTIMIZER(model.train())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def theirs(batch: Batch, precision: str) -> Callable[[], None]:
    """transformers' network, which gets the same batch in its own words."""
    import_torchvision()  # which transformers imports if it is there
    from transformers import BertConfig, BertForPreTraining

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    model = BertForPreTraining(BertConfig(vocab_size=VOCABULARY, **sizes))
    tokens = batch["tokens"]
    inputs = {
        "input_ids": tokens,
        "token_type_ids": batch["segments"],
        "attention_mask": (tokens != 0).long(),
        "labels": torch.full_like(tokens, IGNORED).scatter(1, batch["positions"], batch["targets"]),
        "next_sentence_label": batch["labels"],
    }
    return in_a_loop(model, lambda: model(**inputs).loss, precision)


def ours(name: str, batch: Batch, folder: str) -> Callable[[], None]:
    """One step of our network, by hand or by the project's loop."""
    model, task = build("mini", vocab_size=VOCABULARY), PreTraining()
    if name == "by hand":
        return in_a_loop(model, lambda: task.step(model, batch).loss, "fp32")
    config = Config(out=folder, device="cpu", precision="bf16" if name.endswith("bf16") else "fp32")
    trainer = Trainer(model.train(), task, OPTIMIZER, constant(), config)
    return lambda: trainer.step([batch])


def contenders(names: Sequence[str], batch: Batch, folder: str) -> dict[str, Callable[[], None]]:
    """name -> one training step."""
    steps = {}
    for name in names:
        peer = name.startswith("transformers")
        steps[name] = theirs(batch, "bf16" if name.endswith("bf16") else "fp32") if peer else ours(name, batch, folder)
    return steps


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Pre-training speed of BERT-mini, beside that of transformers.", cpu_time=True)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs of sentences per step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a pair")
    some = common.some_of(NAMES, always="transformers")
    parser.add_argument(
        "--only", type=some, default=NAMES, help="names of contenders, separated by commas; transformers is always measured"
    )
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    batch = pairs(options.batch_size, options.length)
    about = common.about_this_machine(options.command)
    with tempfile.TemporaryDirectory() as folder:
        taken = common.seconds(contenders(options.only, batch, folder), options.rounds, options.clock)
    speeds = common.rates(taken, batch["tokens"].numel())
    sizes = {"batch_size": options.batch_size, "length": options.length, "rounds": options.rounds}
    sizes |= {"clock": "cpu" if options.cpu_time else "wall"}
    write(about | sizes | {"tokens_per_second": speeds}, options.out)
    where = f"{about['device']}, BERT-mini, batch {options.batch_size} x {options.length}"
    print(f"{where}\n{common.table(speeds, 'tokens/s')}\nwritten to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
