"""Speed of our GPT-2 in training and in writing, beside nanoGPT and transformers.

    git clone https://github.com/karpathy/nanoGPT
    python -m dl.benchmarks.gpt --nanogpt nanoGPT                      nanoGPT's network for a CPU: 4 layers x 128, block 64
    python -m dl.benchmarks.gpt --nanogpt nanoGPT --network char_gpu   its network for a GPU: 6 layers x 384, block 256

Training: one batch of random tokens in memory, no dropout (as in nanoGPT's bench.py), AdamW, gradients clipped at 1.

- nanoGPT         its model and its `configure_optimizers`, in the steps of its train.py: loss, backward, clip, update, and
                  the loss read each time
- transformers    GPT2LMHeadModel in the same steps
- ours            our model by `Trainer.step`, with its checks and sums
- + compile       the same, the model compiled
- + bf16          the same with the forward pass in bfloat16
- + both          compiled and in bfloat16

Generation: 240 tokens after one, at temperature 1, by networks of the same size with room for 256, batch 1 and 16.

- nanoGPT         its `generate`, which has no cache
- transformers    its `generate` with its cache
- ours            `generate` with the cache
- + compile       the same, the model compiled once for all lengths

How rounds go and how figures are made of them is said in `dl.benchmarks.common`. Everything is in one process, warmed by one
round, in which programs are compiled.
"""

import argparse
import contextlib
import importlib.util
import io
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Sequence

import torch
from torch import nn

from dl.benchmarks import common
from dl.benchmarks.common import Contenders
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.GPT.GPT2.model import PRESETS, build
from dl.modules.GPT.GPT2.train import Config
from dl.modules.GPT.task import TextModeling
from dl.mytorch import Trainer
from dl.mytorch.config import user_path
from dl.mytorch.data import Batch, Vocabulary
from dl.mytorch.optim import adamw, constant
from dl.mytorch.text.generation import generate
from dl.mytorch.torchvision_compat import import_torchvision

BATCH = {"char": 12, "char_gpu": 16, "tiny": 2}  # examples of a training step
NEW_TOKENS = 240


def nanogpt_module(folder: Path) -> ModuleType:
    """Return its model.py. Raises `FileNotFoundError` when it is not there."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks
    spec.loader.exec_module(module)
    return module


def nanogpt(module: ModuleType, sizes: dict[str, Any]) -> nn.Module:
    """Return its network in our sizes."""
    names = {"dim": "n_embd", "depth": "n_layer", "num_heads": "n_head", "max_length": "block_size"}
    with contextlib.redirect_stdout(io.StringIO()):
        own = {names.get(name, name): value for name, value in sizes.items() if name != "activation"}
        return module.GPT(module.GPTConfig(**own))


def transformers_gpt2(sizes: dict[str, Any]) -> nn.Module:
    """That of transformers in our sizes."""
    import_torchvision()  # which transformers imports if it is there
    from transformers import GPT2Config, GPT2LMHeadModel

    names = {"dim": "n_embd", "depth": "n_layer", "num_heads": "n_head", "max_length": "n_positions"}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), sizes["dropout"])
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    own = {theirs: sizes[name] for name, theirs in names.items()}
    own |= {"vocab_size": sizes["vocab_size"], "activation_function": "gelu"}
    return GPT2LMHeadModel(GPT2Config(**own, **dropout, **ends))


def step_by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """One step of the shortest loop that does what nanoGPT's does."""
    model.train()

    def step() -> float:
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def trainers(network: str, module: ModuleType, batch: Batch, folder: str, compiled: bool) -> Contenders:
    """name -> one training step."""
    sizes, optimizer = {**PRESETS[network], "dropout": 0.0}, {"betas": (0.9, 0.99)}
    tokens, targets = batch["tokens"], batch["targets"]
    nano, theirs = nanogpt(module, sizes), transformers_gpt2(sizes)
    with contextlib.redirect_stdout(io.StringIO()):
        nano_optimizer = nano.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.1, **optimizer)
    labels = torch.cat([targets[:, :1], targets], dim=1)[:, :-1]  # it moves them by one itself

    def ours(**options: Any) -> Callable[[], None]:
        config = Config(out=folder, device="cpu", **options)
        task = TextModeling(Vocabulary(map(str, range(sizes["vocab_size"]))))
        model = build(network, dropout=0.0).train()
        trainer = Trainer(model, task, adamw(1e-3, 0.1, fused=True, **optimizer), constant(), config)
        return lambda: trainer.step([batch])

    return {
        "nanoGPT": step_by_hand(nano, nano_optimizer, lambda: nano(tokens, targets)[1]),
        "transformers": step_by_hand(theirs, their_optimizer, lambda: theirs(input_ids=tokens, labels=labels).loss),
        "ours": ours(),
        "+ bf16": ours(precision="bf16"),
        **({"+ compile": ours(compile=True), "+ both": ours(compile=True, precision="bf16")} if compiled else {}),
    }


def writers(network: str, module: ModuleType, batch_size: int, compiled: bool) -> Contenders:
    """name -> the generation of `NEW_TOKENS` for each row of a batch."""
    sizes = {**PRESETS[network], "max_length": 256, "dropout": 0.0}
    nano, theirs = nanogpt(module, sizes).eval(), transformers_gpt2(sizes).eval()
    own, faster = build(network, **sizes), build(network, **sizes)
    faster.compile(dynamic=True)  # one program for all lengths of the cache
    prompt = torch.zeros(batch_size, 1, dtype=torch.int64)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 0, "use_cache": True}
    return {
        "nanoGPT": lambda: nano.generate(prompt, NEW_TOKENS),
        "transformers": lambda: theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options),
        "ours": lambda: generate(own, prompt, max_new_tokens=NEW_TOKENS),
        **({"+ compile": lambda: generate(faster, prompt, max_new_tokens=NEW_TOKENS)} if compiled else {}),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Speed of GPT-2 beside nanoGPT and transformers.")
    parser.add_argument(
        "--nanogpt", type=user_path, required=True, help="folder of a clone of https://github.com/karpathy/nanoGPT"
    )
    parser.add_argument("--network", choices=list(BATCH), default="char", help="preset (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="timed training steps of each (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=5, help="timed texts of each, 0 = none (default: %(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="leave out what is compiled, which takes minutes")
    parser.set_defaults(out=None)
    options = common.parse(parser, argv)
    options.out = options.out or common.RESULTS / f"gpt-{options.network}.json"
    if not (options.nanogpt / "model.py").exists():
        parser.error(f"--nanogpt {options.nanogpt}: no model.py there")
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    compiled = not options.no_compile
    about, module = common.about_this_machine(options.command), nanogpt_module(options.nanogpt)
    sizes, batch_size = PRESETS[options.network], BATCH[options.network]
    ids = torch.randint(sizes["vocab_size"], (batch_size, sizes["max_length"] + 1))
    batch = {"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    speeds: dict[str, common.Speeds] = {}
    with tempfile.TemporaryDirectory() as folder:
        contenders = trainers(options.network, module, batch, folder, compiled)
        taken = common.seconds(contenders, options.rounds, warm_ups=1)
        speeds["training"] = common.rates(taken, batch["tokens"].numel())
    for size in (1, 16) if options.texts else ():
        contenders = writers(options.network, module, size, compiled)
        taken = common.seconds(contenders, options.texts, warm_ups=1)
        speeds[f"writing, batch {size}"] = common.rates(taken, size * NEW_TOKENS)
    write(about | {"network": options.network, "batch_size": batch_size, "tokens_per_second": speeds}, options.out)
    print(about["device"])
    for name, figures in speeds.items():
        print(f"\n{options.network}, {name}\n{common.table(figures, 'tokens/s', 'nanoGPT', 'transformers')}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
