"""Speed of our GPT-2, Llama and Qwen3 in training and in writing, beside nanoGPT, transformers and llama.cpp.

    git clone https://github.com/karpathy/nanoGPT
    python -m dl.benchmarks.gpt --nanogpt nanoGPT                      nanoGPT's network for a CPU: 4 layers x 128, block 64
    python -m dl.benchmarks.gpt --nanogpt nanoGPT --network char_gpu   its network for a GPU: 6 layers x 384, block 256
    python -m dl.benchmarks.gpt --model GPT/Qwen3                      Qwen3 beside transformers and llama.cpp

Training: one batch of random tokens in memory, no dropout (as in nanoGPT's bench.py), AdamW, gradients clipped at 1.

- nanoGPT         its model and its `configure_optimizers`, in the steps of its train.py: loss, backward, clip, update, and
                  the loss read each time; for GPT-2
- transformers    GPT2LMHeadModel, LlamaForCausalLM or Qwen3ForCausalLM in the same steps
- ours            our model by `Trainer.step`, with its checks and sums
- + compile       the same, the model compiled
- + bf16          the same with the forward pass in bfloat16, where the processor computes in it
- + both          compiled and in bfloat16

Generation: 240 tokens after one, at temperature 1, by networks of the same size with room for 256, batch 1 and 16.

- nanoGPT         its `generate`, which has no cache
- transformers    its `generate` with its cache
- llama.cpp       with its cache in float16, if the package llama_cpp is installed; for Llama and Qwen3
- ours            `generate` with the cache
- + compile       the same, the model compiled once for all lengths

How rounds go and how figures are made of them is said in `dl.benchmarks.common`. Everything is in one process, warmed by one
round, in which programs are compiled. What is left out is recorded with the reason.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Sequence

import torch
from torch import nn

from dl.benchmarks import common, gpt_peers
from dl.benchmarks.common import Contenders
from dl.cli import catalogue
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.GPT.task import TextModeling
from dl.mytorch import Trainer
from dl.mytorch.config import user_path
from dl.mytorch.data import Batch, Vocabulary
from dl.mytorch.optim import adamw, constant
from dl.mytorch.precision import native_bf16
from dl.mytorch.text.generation import generate

BATCH = {"char": 12, "char_gpu": 16, "tiny": 2}  # examples of a training step
NEW_TOKENS = 240
MODELS = ("GPT/GPT2", "GPT/Llama", "GPT/Qwen3")


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


def trainers(options: argparse.Namespace, module: ModuleType | None, batch: Batch, folder: Path) -> Contenders:
    """name -> one training step."""
    sizes, betas = {**catalogue.module(options.model).PRESETS[options.network], "dropout": 0.0}, {"betas": (0.9, 0.99)}
    build, config_class = catalogue.module(options.model).build, catalogue.module(options.model, "train").Config
    tokens, targets = batch["tokens"], batch["targets"]
    labels = torch.cat([targets[:, :1], targets], dim=1)[:, :-1]  # transformers moves them by one itself

    def nano() -> Callable[[], float]:
        model = gpt_peers.nanogpt(module, sizes)
        with contextlib.redirect_stdout(io.StringIO()):
            optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
        return step_by_hand(model, optimizer, lambda: model(tokens, targets)[1])

    def theirs() -> Callable[[], float]:
        model = gpt_peers.of_transformers(options.model, build(options.network, dropout=0.0), sizes)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, **betas)
        return step_by_hand(model, optimizer, lambda: model(input_ids=tokens, labels=labels).loss)

    def ours(**changes: Any) -> Callable[[], None]:
        config = config_class(out=str(folder), device="cpu", **changes)
        task = TextModeling(Vocabulary(map(str, range(sizes["vocab_size"]))))
        model = build(options.network, dropout=0.0).train()
        trainer = Trainer(model, task, adamw(1e-3, 0.1, fused=True, **betas), constant(), config)
        return lambda: trainer.step([batch])

    bf16 = native_bf16(torch.device("cpu"))[0]
    return {
        **({"nanoGPT": nano()} if module else {}),
        "transformers": theirs(),
        "ours": ours(),
        **({"+ bf16": ours(precision="bf16")} if bf16 else {}),
        **({"+ compile": ours(compile=True)} if options.compile else {}),
        **({"+ both": ours(compile=True, precision="bf16")} if options.compile and bf16 else {}),
    }


def writers(
    options: argparse.Namespace, module: ModuleType | None, batch_size: int, folder: Path, skipped: dict[str, str]
) -> Contenders:
    """name -> the generation of `NEW_TOKENS` for each row of a batch. Why there is no llama.cpp is put into `skipped`."""
    build = catalogue.module(options.model).build
    sizes = {**catalogue.module(options.model).PRESETS[options.network], "max_length": 256, "dropout": 0.0}
    own, faster = build(options.network, **sizes), build(options.network, **sizes)
    theirs = gpt_peers.of_transformers(options.model, own, sizes).eval()
    prompt = torch.zeros(batch_size, 1, dtype=torch.int64)
    made: Contenders = {}
    if module:
        nano = gpt_peers.nanogpt(module, sizes).eval()
        made["nanoGPT"] = lambda: nano.generate(prompt, NEW_TOKENS)
    choice = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 0, "use_cache": True}
    made["transformers"] = lambda: theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **choice)
    try:
        continued = gpt_peers.llama_cpp(options.model, own, folder, batch_size)
        made["llama.cpp"] = lambda: continued(NEW_TOKENS)
    except (ImportError, LookupError) as error:
        skipped["llama.cpp"] = str(error)
    made["ours"] = lambda: generate(own, prompt, max_new_tokens=NEW_TOKENS)
    if options.compile:
        faster.compile(dynamic=True)  # one program for all lengths of the cache
        made["+ compile"] = lambda: generate(faster, prompt, max_new_tokens=NEW_TOKENS)
    return made


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Speed of language models beside nanoGPT, transformers and llama.cpp.", cpu_time=True)
    parser.add_argument("--model", choices=MODELS, default="GPT/GPT2", help="whose (default: %(default)s)")
    parser.add_argument("--nanogpt", type=user_path, help="for GPT-2: folder of a clone of https://github.com/karpathy/nanoGPT")
    parser.add_argument("--network", choices=list(BATCH), default="char", help="preset (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="timed training steps of each (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=5, help="timed texts of each, 0 = none (default: %(default)s)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out what is compiled, for minutes")
    parser.set_defaults(file=None)  # it depends on the model
    options = common.parse(parser, argv)
    family = "gpt" if options.model == "GPT/GPT2" else options.model.rpartition("/")[2].lower()
    options.out = options.out or common.where(options, f"{family}-{options.network}.json")
    if options.network not in catalogue.module(options.model).PRESETS:
        parser.error(f"{options.model} has no preset {options.network}")
    if options.nanogpt and (options.model != "GPT/GPT2" or not (options.nanogpt / "model.py").exists()):
        parser.error(f"--nanogpt {options.nanogpt}: no model.py there, or not for --model {options.model}")
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    about = common.about_this_machine(options.command)
    module = gpt_peers.nanogpt_module(options.nanogpt) if options.nanogpt else None
    sizes, batch_size = catalogue.module(options.model).PRESETS[options.network], BATCH[options.network]
    ids = torch.randint(sizes["vocab_size"], (batch_size, sizes["max_length"] + 1))
    batch = {"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    skipped = {} if module or options.model != "GPT/GPT2" else {"nanoGPT": "no --nanogpt"}
    speeds: dict[str, common.Speeds] = {}
    with tempfile.TemporaryDirectory() as folder:
        contenders = trainers(options, module, batch, Path(folder))
        taken = common.seconds(contenders, options.rounds, options.clock, warm_ups=1)
        speeds["training"] = common.rates(taken, batch["tokens"].numel())
        for size in (1, 16) if options.texts else ():
            contenders = writers(options, module, size, Path(folder), skipped)
            taken = common.seconds(contenders, options.texts, options.clock, warm_ups=1)
            speeds[f"writing, batch {size}"] = common.rates(taken, size * NEW_TOKENS)
    record = {"model": options.model, "network": options.network, "batch_size": batch_size, "skipped": skipped}
    write(about | record | {"tokens_per_second": speeds}, options.out)
    print(about["device"])
    for name, figures in speeds.items():
        peers = [peer for peer in ("nanoGPT", "transformers", "llama.cpp") if peer in figures]
        print(f"\n{options.network}, {name}\n{common.table(figures, 'tokens/s', *peers)}")
    for name, reason in skipped.items():
        print(f"without {name}: {reason}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
