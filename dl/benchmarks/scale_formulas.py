"""What a training step holds in memory and sends, by formulas: dl/mytorch/large/SCALING.md explains each term."""

from dataclasses import dataclass, replace

# Numbers per token and unit of width that a block keeps for its backward pass, counted by saved_tensors_hooks. GPT-2: the
# input and the output of two norms, query, key, value, the attention's output, and what is 4 wide before and after GELU.
# Llama: another copy inside each RMSNorm, and four hidden layers that are 8/3 wide.
KEPT = {"gpt2": 16.0, "llama": 10 + 4 * 8 / 3}
WORK = 5.0  # the same unit, in a block's backward pass: the gradients of its hidden layer and of its output


@dataclass(frozen=True)
class Sizes:
    """A decoder-only transformer and its batch."""

    dim: int
    depth: int
    vocabulary: int
    parameters: int
    tokens: float  # per step, over all ranks
    kind: str = "gpt2"
    width: int = 4  # bytes of a number in the forward pass, 2 with --precision bf16

    @property
    def block(self) -> int:
        """Return parameters of a block, without biases and norms, which are a thousandth."""
        return 12 * self.dim**2

    @property
    def rest(self) -> int:
        """Return parameters outside of blocks."""
        return self.parameters - self.depth * self.block


@dataclass(frozen=True)
class Way:
    """How ranks share a training: `copies` of `shards` of all weights, in blocks of which a rank has one part of `tensor`."""

    copies: int = 1
    shards: int = 1
    tensor: int = 1
    sequence: bool = False  # between the layers of a block the sequence is cut into `tensor` parts, too

    def weights(self, sizes: Sizes) -> float:
        """Return parameters of a rank, before they are cut into shards."""
        return sizes.depth * sizes.block / self.tensor + sizes.rest


def held(way: Way, sizes: Sizes) -> float:
    """Return bytes on a rank of weights, gradients and AdamW's two means, in fp32."""
    return 16 * way.weights(sizes) / way.shards


def sent(way: Way, sizes: Sizes) -> float:
    """Return bytes that a rank sends each step by rings: an all-reduce in fp32, or two gathers and a reduce-scatter in fp32.

    With `tensor`, four all-reduces of the blocks' input in each block; with `sequence`, a gather and a reduce-scatter each,
    and one more pair where the sequence is cut and joined.
    """

    def ring(ranks: int) -> float:
        return (ranks - 1) / ranks

    total = 8 * way.weights(sizes) / way.shards * ring(way.copies)
    total += (4 + 2 * sizes.width) * way.weights(sizes) * ring(way.shards)
    inputs = sizes.tokens / way.copies / way.shards * sizes.dim * sizes.width
    return total + (8 * sizes.depth + 2 * way.sequence) * inputs * ring(way.tensor)


def kept(way: Way) -> float:
    """Return what a block of GPT-2 keeps for its backward pass, in units of its input."""
    return 2 + 14 / way.tensor if way.sequence else 4 + 12 / way.tensor


def is_recomputed(mode: str) -> bool:
    """Return whether blocks keep nothing but their input."""
    return mode in ("recomputed", "streamed", "both")


def activations(mode: str, sizes: Sizes, ranks: int) -> float:
    """Return bytes on a rank when the backward pass begins, or is in a block whose inside was computed again."""
    unit = sizes.tokens / ranks * sizes.dim * sizes.width
    kept = sizes.depth + KEPT[sizes.kind] if is_recomputed(mode) else sizes.depth * KEPT[sizes.kind]
    logits = sizes.tokens / ranks * sizes.vocabulary * 4
    return unit * (kept + WORK) + 3 * logits  # logits, their softmax, their gradient


def state(mode: str, sizes: Sizes, ranks: int) -> float:
    """Return bytes on a rank of the weights and of AdamW's two means, in fp32, and of weights that are gathered or rounded."""
    if mode in ("fsdp", "both"):  # what belongs to no block, this block and the next
        return 12 * sizes.parameters / ranks + sizes.width * (sizes.rest + 2 * sizes.block)
    if mode == "streamed":  # the weights of a block and its gradients
        return 12 * sizes.rest + 8 * sizes.block
    rounded = sizes.parameters if mode != "recomputed" else sizes.rest + sizes.block
    return 12 * sizes.parameters + (sizes.width * rounded if sizes.width < 4 else 0)


def gradients(mode: str, sizes: Sizes, ranks: int) -> float:
    """Return bytes on a rank of all gradients, when the backward pass ends."""
    shared = {"streamed": sizes.rest, "fsdp": sizes.parameters / ranks, "both": sizes.parameters / ranks}
    return 4 * shared.get(mode, sizes.parameters)


def memory(mode: str, sizes: Sizes, ranks: int) -> float:
    """Return the most bytes that a rank holds: when the backward pass begins, with all activations; or when it ends."""
    unit = sizes.tokens / ranks * sizes.dim * sizes.width
    end = gradients(mode, sizes, ranks) + unit * (KEPT[sizes.kind] + WORK)
    return state(mode, sizes, ranks) + max(activations(mode, sizes, ranks), end)


def communication(mode: str, sizes: Sizes, ranks: int) -> float:
    """Return bytes that a rank sends each step."""
    ways = {"ddp": Way(copies=ranks), "fsdp": Way(shards=ranks), "both": Way(shards=ranks)}
    return sent(ways.get(mode, Way()), sizes)


# ---- for machines that are not here --------------------------------------------------------------------------------

GPU_BYTES, GPU_FLOPS, LINK_BYTES = 80e9, 400e12, 50e9  # of an H100: memory, bf16 at half of its peak, network per GPU
PRESETS = {
    "gpt2-xl, 1.56G, 1024 tokens": (Sizes(1600, 48, 50257, 1_557_611_200, 1024, width=2), 1024),
    "llama_7b, 6.74G, 2048 tokens": (Sizes(4096, 32, 32000, 6_738_415_616, 2048, kind="llama", width=2), 2048),
}


def plan() -> str:
    """Return a table: for each model, number of GPUs and mode, what fits and what bounds it."""
    rows = ["| model, a sequence | GPUs | mode | least GB per GPU | most sequences per GPU | sent GB per step | bound by |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, (sizes, length) in PRESETS.items():
        for ranks in (8, 64):
            for mode in ("ddp", "fsdp", "both"):
                least = memory(mode, replace(sizes, tokens=length * ranks), ranks)
                most = 0
                while memory(mode, replace(sizes, tokens=length * ranks * (most + 1)), ranks) < GPU_BYTES:
                    most += 1
                sent = communication(mode, sizes, ranks)
                figures = [name, ranks, mode, f"{least / 1e9:.0f}", most, f"{sent / 1e9:.1f}"]
                rows.append(f"| {' | '.join(map(str, figures))} | {_bound(mode, sizes, most * length, sent)} |")
    return "\n".join(rows)


def _bound(mode: str, sizes: Sizes, tokens: int, sent: float) -> str:
    """Return what takes longer, arithmetic on the most tokens that fit, or sending."""
    if not tokens:
        return "memory: it does not fit"
    arithmetic = (8 if is_recomputed(mode) else 6) * sizes.parameters * tokens / GPU_FLOPS
    network = sent / LINK_BYTES
    return f"{'arithmetic' if arithmetic > network else 'network'} ({arithmetic:.2f} s, network {network:.2f} s)"
