"""The table of all ratios to peers, in this folder's README."""

from pathlib import Path
from typing import Any, Callable

from dl.benchmarks.common import RESULTS, ratio
from dl.cli.results import markdown_table
from dl.mytorch.files import read_json

Of = Callable[[Any], float]  # finds, in a record, how many times as fast as the peer we are


def rates(*place: str, peer: str, own: str = "ours") -> Of:
    """Return what finds the ratio of the rates, a list for each contender, at this place of a record."""

    def of(record: Any) -> float:
        for name in place:
            record = record[name]
        return ratio(record[own], record[peer])

    return of


def seconds(*place: str, peer: str) -> Of:
    """As `rates`, of seconds."""
    return rates(*place, peer="ours", own=peer)


def trainings(algorithm: str) -> Of:
    """As `rates`, of the seconds of an agent's trainings, which all have the same number of environment steps."""

    def of(record: Any) -> float:
        taken = {name: [one["seconds"] for one in runs] for name, runs in record[algorithm]["trainings"].items()}
        return ratio(taken["stable-baselines3"], taken["ours"])

    return of


def maps(record: Any) -> float:
    """Return how many times as fast as openTSNE's the map of t-SNE is."""
    return record["maps"]["openTSNE"]["seconds"] / record["maps"]["ours"]["seconds"]


def writing(title: str, file: str, peer: str) -> list[tuple[str, str, str, Of]]:
    """Return the two rows of a language model's generation."""
    sizes = (("batch 1", "one text"), ("batch 16", "16 texts"))
    return [
        (f"{title}, generation, {many}", peer, file, rates("tokens_per_second", f"writing, {size}", peer=peer))
        for size, many in sizes
    ]


# What is measured, beside whom, the record, and the ratio in it.
BESIDE: list[tuple[str, str, str, Of]] = [
    ("LeNet, training by `Trainer`", "a loop by hand", "trainer", lambda record: record["results"]["ours"]["ratio_to_floor"]),
    ("ResNet, training", "torchvision's network", "resnet", rates("images_per_second", own="Trainer", peer="torchvision")),
    ("BERT, training", "transformers", "bert", rates("tokens_per_second", own="Trainer", peer="transformers")),
    (
        "DDPM, training",
        "diffusers",
        "diffusion",
        rates("training_images_per_second", own="Trainer", peer="diffusers, one head"),
    ),
    ("GPT-2, training", "nanoGPT", "gpt-char", rates("tokens_per_second", "training", peer="nanoGPT")),
    ("Llama, training", "transformers", "llama-char", rates("tokens_per_second", "training", peer="transformers")),
    ("Qwen3, training", "transformers", "qwen3-char", rates("tokens_per_second", "training", peer="transformers")),
    *writing("GPT-2", "gpt-char", "transformers"),
    *writing("Llama", "llama-char", "transformers"),
    *writing("Qwen3", "qwen3-char", "transformers"),
    *writing("Llama", "llama-char", "llama.cpp"),
    ("SimCLR, training", "lightly", "self_supervised", rates("images_per_second", "simclr", peer="lightly")),
    ("FCOS, training", "torchvision", "detection", rates("per_second", "fcos", peer="torchvision")),
    ("Faster R-CNN, training", "torchvision", "detection", rates("per_second", "fasterrcnn", peer="torchvision")),
    ("GCN, training on Cora", "torch_geometric", "graphs", seconds("runs", "GCN cora", "seconds", peer="torch_geometric")),
    ("GAT, training on Cora", "torch_geometric", "graphs", seconds("runs", "GAT cora", "seconds", peer="torch_geometric")),
    ("PPO, training", "stable-baselines3", "agents", trainings("PPO")),
    ("DQN, training", "stable-baselines3", "agents", trainings("DQN")),
    ("search, one query", "faiss", "search", rates("queries_per_second", "one query, L2", peer="faiss")),
    ("search, 1,000 queries", "faiss", "search", rates("queries_per_second", "1,000 queries, L2", peer="faiss")),
    ("search, 50 queries, L1", "faiss", "search", rates("queries_per_second", "50 queries, L1", peer="faiss")),
    ("t-SNE of 10,000 points", "openTSNE", "tsne", maps),
    (
        "`tar:` of JPEG images",
        "webdataset",
        "tar",
        rates("samples_per_second", "JPEG, 224 x 224, no workers", peer="webdataset"),
    ),
]


def machine(record: dict[str, Any]) -> str:
    """Return the processor, its instruction set and the threads; older records do not tell them and have AVX-512 with bf16."""
    if "processor" not in record:
        return record["device"].replace("CPU", "CPU with avx512_bf16")
    return f"{record['processor']}, {record['capability']}, {record['threads']} thread{'s' * (record['threads'] > 1)}"


def table() -> str:
    """Return the ratios in Markdown, each with its machine and its record; some were measured on two kinds of processor."""
    rows = []
    for title, peer, file, of in BESIDE:
        for path in filter(Path.exists, (RESULTS / f"{file}.json", RESULTS / f"{file}-avx512.json")):
            record = read_json(path, {str: object})
            about = record if "device" in record else next(iter(record.values()))  # of agents each algorithm is a record
            rows.append([title, peer, f"{of(record):.2f}", machine(about), f"[{path.stem}](results/{path.name})"])
    return markdown_table(["", "beside", "times as fast", "processor", "record"], rows)


def tables() -> list[tuple[Path, str, str]]:
    """Return README, marker and Markdown of the table, see `dl.cli.results.OTHERS`."""
    return [(Path(__file__).parent / "README.md", "ratios", table())]
