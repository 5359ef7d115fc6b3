"""The pairs of a run as batches: sums that the first policy drew itself, or pairs of a file, with the reference's log p."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dl.cli.runs import Run
from dl.modules.Alignment.DPO.drawing import drawn_pairs
from dl.modules.Alignment.DPO.model import build
from dl.modules.Alignment.DPO.pairs import Ids, Pair, batch_of, encode, read_pairs
from dl.modules.Alignment.DPO.task import Loss, with_reference
from dl.modules.Alignment.recipe import RECIPES, AlignmentConfig, start
from dl.modules.Alignment.sums import TOKENS, Sums
from dl.mytorch import distributed, precision
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.files import verify
from dl.mytorch.run import recorded_precision
from dl.mytorch.text.generation import Tokens

FILE = "pairs.jsonl"  # in a run's folder: the pairs that it drew
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class PairConfig(AlignmentConfig):
    """What says which pairs a run learns from."""

    data: str = flag("sums", "sums, whose pairs are drawn from the first policy; or pairs:FILE, see pairs.py")
    init_from: str = "runs/Alignment/SFT"
    loss: Loss = flag("dpo", "dpo; ipo: the preference has a target; kto: single answers, not pairs; orpo: without a reference")
    samples: int = flag(16, "sums: answers that are drawn for each prompt")
    prompts: int = flag(10_000, "sums: the most training prompts")
    pairs_per_prompt: int = flag(8, "sums: the most pairs of one prompt")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "prompts", "pairs_per_prompt"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("data", self.data == "sums" or self.data_path("pairs:") is not None, "sums, or pairs:FILE")
        self._check("init_from", self.init_from.strip() != "", "the folder of a run, the first policy and the reference")


@dataclass(frozen=True)
class PairSplits(Splits):
    """Loaders, and the drawn `pairs` that the run keeps in its folder."""

    pairs: Sequence[Pair] = ()


def pair_splits(config: PairConfig) -> PairSplits:
    """Return the pairs that the config asks for. Raises `UserError` when there are none, or `config.init_from` does not fit."""
    tokens = TOKENS if config.data == "sums" else Run.open(config.start, *RECIPES).vocabularies["tokens"]
    reference = start(dataclasses.replace(config, lora_rank=0), {"tokens": tokens}, build)
    device = distributed.device(config.device)
    reference.to(device)
    pairs = sum_pairs(config, reference) if config.data == "sums" else file_pairs(config)
    parts = {part: [pair for pair in pairs if pair.part == part] for part in PARTS}
    end = [] if config.data == "sums" else list(getattr(tokens, "special", {}).values())[:1]
    taken = precision.choose(config.precision, device, recorded_precision(config)).taken
    with torch.autocast(device.type, torch.bfloat16, enabled=taken == "bf16"):  # as the policy, which is the same at step 0
        data = {part: tensors(parts[part], tokens, end, reference, config) for part in PARTS if parts[part]}
    if config.data == "sums":
        for part in ("val", "test"):
            data[part]["pairs"] = Sums(config.digits).pairs(part)
    loaders = [Loader(data["train"], config.batch_size, shuffle=True, seed=config.seed)]
    loaders += [Loader(data[part], config.batch_size) for part in PARTS[1:] if part in data]
    vocabularies = {"tokens": tokens}
    if config.data == "sums":
        return PairSplits(*loaders, vocabularies=vocabularies, pairs=pairs)
    names = {part: [f"{pair.prompt} > {pair.chosen} > {pair.rejected}" for pair in parts[part]] for part in PARTS}
    return PairSplits(*loaders, vocabularies=vocabularies, split=names)


def sum_pairs(config: PairConfig, model: nn.Module) -> list[Pair]:
    """Return the pairs in the folder of the run that is resumed, or new ones, drawn from `model`."""
    kept, sums = Path(config.out) / FILE, Sums(config.digits)
    if kept.exists() and not (config.fresh and not distributed.restarted()):
        verify(kept)
        found, _ = read_pairs(kept)
        if [sum(pair.part == part for pair in found) for part in PARTS[1:]] != [len(sums.pairs(part)) for part in PARTS[1:]]:
            raise UserError(f"{kept} is not of this run; --fresh starts the run over")
        return found
    found = drawn_pairs(model, sums, config.seed, config.samples, config.prompts, config.pairs_per_prompt)
    if not any(pair.part == "train" for pair in found):
        raise UserError(
            f"--init-from {config.start} answers no sum both right and wrong in {config.samples} samples: nothing to prefer"
        )
    return found


def file_pairs(config: PairConfig) -> list[Pair]:
    """Return the pairs of a file in parts: its own, or by the seed a tenth of the prompts each to validate and to test."""
    path = config.data_path("pairs:")
    found, left_out = read_pairs(path)
    if left_out:
        _note(f"{path}: {left_out} of {left_out + len(found)} pairs left out: the same answer twice, or no common prompt")
    if all(pair.part in PARTS for pair in found) and {"train", "val"} <= {pair.part for pair in found}:
        return found
    prompts = sorted({pair.prompt for pair in found})
    if len(prompts) < 3:
        raise UserError(f"{path}: {len(prompts)} different prompts are too few to train, to validate and to test: 3 at least")
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(config.seed)).tolist()
    tenth = max(1, len(prompts) // 10)
    part = {prompts[i]: PARTS[1 if place < tenth else 2 if place < 2 * tenth else 0] for place, i in enumerate(order)}
    return [pair._replace(part=part[pair.prompt]) for pair in found]


def tensors(pairs: Sequence[Pair], tokens: Tokens, end: Sequence[int], reference: nn.Module, config: PairConfig) -> Batch:
    """Return pairs as `Preferences` reads them for `config.loss`, without those that are too long for the network."""
    ids = encode(pairs, tokens, end)
    longest = reference.max_length + 1  # the last token is predicted only
    fitting = [pair for pair in ids if length(pair) <= longest]
    if not fitting:
        raise UserError(f"--data {config.data}: all {len(ids)} pairs are longer than the {longest} tokens that fit")
    if len(fitting) < len(ids):
        _note(f"{config.data}: {len(ids) - len(fitting)} of {len(ids)} pairs left out: longer than {longest} tokens")
    batch = batch_of(fitting, longest)
    if config.loss != "kto":
        batch = {name: tensor for name, tensor in batch.items() if not name.startswith("mismatched")}
    return with_reference(reference, batch)


def length(pair: Ids) -> int:
    """Return the tokens of a prompt and its longer answer."""
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def _note(line: str) -> None:
    if distributed.is_main():
        print(f"note: {line}", flush=True)
