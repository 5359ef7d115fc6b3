"""The READMEs' tables of what the benchmarks have recorded: see `dl.cli.results.OTHERS`."""

from pathlib import Path
from statistics import median
from typing import Any

from dl.benchmarks.common import RESULTS, ratio
from dl.cli.catalogue import MODULES
from dl.cli.results import markdown_table
from dl.mytorch.files import read_json

MIB = 2**20
# For each README the record, the quantity in it, two headings, and what each contender is called; the first is the peer.
SPEEDS = {
    "CNN/ResNet": (
        *("resnet-avx512", "images_per_second", "images/s", "of torchvision's"),
        {
            "torchvision": "torchvision's network, a loop by hand, fp32",
            "by hand": "this network, the same loop, fp32",
            "Trainer": "this network, `Trainer`, fp32",
            "+ channels_last": "and channels_last",
            "+ bf16": "and bf16 instead",
            "+ both": "and both, the recipe's default",
            "+ compile": "and both with `--compile`",
        },
    ),
    "Transformers/BERT": (
        *("bert-avx512", "tokens_per_second", "tokens/s", "of transformers"),
        {
            "transformers": "`BertForPreTraining` of transformers, a loop by hand, fp32",
            "transformers bf16": "the same in bf16",
            "by hand": "this network, the same loop, fp32",
            "Trainer": "this network, `Trainer`, fp32",
            "Trainer bf16": "this network, `Trainer`, bf16, as the recipe takes it there",
        },
    ),
    "Diffusion/DDPM": (
        *("diffusion-avx512", "training_images_per_second", "training images/s", "of diffusers'"),
        {
            "diffusers": "diffusers, its default heads of width 8, fp32",
            "diffusers, one head": "diffusers, one head as in the paper, fp32",
            "by hand": "this network, one head, the same loop, fp32",
            "by hand, width 8": "this network, heads of width 8, the same loop, fp32",
            "Trainer": "this network, one head, `Trainer`, fp32",
            "recipe": "and bf16",
        },
    ),
}
LANGUAGE_MODELS = {"GPT/GPT2": "gpt-char", "GPT/Llama": "llama-char", "GPT/Qwen3": "qwen3-char"}
MODES = {"one": "one process", "both": "fsdp, recomputed"}


def tables() -> list[tuple[Path, str, str]]:
    """Return README, marker and Markdown of each table, see `dl.cli.results.OTHERS`."""
    scaling = MODULES.parent / "mytorch" / "large" / "SCALING.md"
    found = [(MODULES / name / "README.md", "speed", speeds(name)) for name in SPEEDS]
    found += [(MODULES / name / "README.md", "speed", language_models(file)) for name, file in LANGUAGE_MODELS.items()]
    found += [(scaling, "speed", modes()), (scaling, "ways", ways())]
    return [*found, (MODULES / "DataMining/TSNE/README.md", "speed", maps()), (scaling, "depths", depths())]


def speeds(name: str) -> str:
    """Return medians over rounds, and ratios to the first contender; of DDPM the seconds of sampling as well."""
    file, quantity, unit, of, names = SPEEDS[name]
    record = _read(file)
    found, sampling = record[quantity], record.get("seconds_to_sample")
    rows = []
    for contender, title in names.items():
        own, peer = found[contender], found[next(iter(names))]
        digits = ",.0f" if median(peer) > 100 else ".1f"
        rows.append([title, f"{median(own):{digits}}", f"{ratio(own, peer):.2f}"])
        if sampling:
            own, peer = sampling[contender], sampling[next(iter(names))]
            rows[-1] += [f"{median(own):.1f}", f"{ratio(peer, own):.2f}"]
    return markdown_table(["", unit, of, *(["sampling, s", "times as fast"] if sampling else [])], rows)


def language_models(file: str) -> str:
    """Return tokens a second of training and of generation, ours with the ratios to the peers that were measured."""
    peers = {name: name for name in ("nanoGPT", "transformers", "llama.cpp")}
    ours = {"ours": "ours", "+ bf16": "ours, bf16", "+ compile": "ours, compiled", "+ both": "ours, both"}
    rows, measured = [], _read(file)["tokens_per_second"]
    for task, found in measured.items():
        cells = [task.replace("writing", "generation")]
        for name in (*peers, *ours):
            ratios = ", ".join(f"{ratio(found[name], found[peer]):.2f}" for peer in peers if {name, peer} <= found.keys())
            cells.append((f"{median(found[name]):,.0f}" + (f" ({ratios})" if name in ours else "")) if name in found else "")
        rows.append(cells)
    titles = {"": "", **peers, **ours}
    used = [i for i, name in enumerate(titles) if not name or any(name in found for found in measured.values())]
    return markdown_table([[*titles.values()][i] for i in used], [[row[i] for i in used] for row in rows])


def maps() -> str:
    """Return seconds and quality of the maps of t-SNE."""
    found = _read("tsne")["maps"]
    rows = [[name, f"{m['seconds']:.0f}", f"{m['divergence']:.4f}", f"{m['trustworthiness']:.4f}"] for name, m in found.items()]
    return markdown_table(["", "seconds", "divergence", "trustworthiness"], rows)


def depths() -> str:
    """Return memory and time by depth, with what the formulas say."""
    by_depth: dict[int, dict[str, Any]] = {}
    for row in _read("scale-depths")["rows"]:
        by_depth.setdefault(row["depth"], {})[row["mode"]] = row
    rows = [
        [
            *(str(depth), _mib(pair["one"], "bytes"), _mib(pair["recomputed"], "bytes")),
            f"{pair['recomputed']['seconds'] / pair['one']['seconds']:.2f}",
        ]
        for depth, pair in by_depth.items()
    ]
    headings = ["ordinary, MiB (formula)", "recomputed, MiB (formula)", "time, recomputed / ordinary (formula 1.33)"]
    return markdown_table(["blocks", *headings], rows)


def modes() -> str:
    """Return speed, memory and traffic of each way to train, with what the formulas say."""
    record, rows = _read("scale"), []
    tokens = 256 * int(record["options"]["batch_size"])
    for row in record["rows"]:
        sent = _mib(row, "sent") if row["ranks"] > 1 else ""
        speed = f"{tokens / row['seconds']:,.0f}"
        rows.append([MODES.get(row["mode"], row["mode"]), speed, _mib(row, "bytes"), sent])
    return markdown_table(["", "tokens per second", "memory (formula)", "sent per step (formula)"], rows)


def ways() -> str:
    """Return what a rank holds, sends and keeps in each way to share a training, with what the formulas say."""
    rows = []
    for row in _read("collectives")["rows"]:
        counted = [f"{row[name] / 1e6:.2f} ({row[f'expected_{name}'] / 1e6:.2f})" for name in ("held", "sent")]
        kept = f"{row['kept']:.1f} ({row['expected_kept']:.1f})" if "kept" in row else ""
        rows.append([f"{row['way']}, {row['ranks']} ranks", *counted, kept])
    return markdown_table(["", "held, MB (formula)", "sent, MB (formula)", "kept by a block (formula)"], rows)


def _mib(row: dict[str, Any], name: str) -> str:
    return f"{row[name] / MIB:.0f} ({row[f'expected_{name}'] / MIB:.0f})"


def _read(name: str) -> dict[str, Any]:
    return read_json(RESULTS / f"{name}.json", {str: object})
