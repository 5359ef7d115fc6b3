"""What the tests of the Transformer share."""

import torch

from dl.modules.Transformers.Transformer import train
from dl.mytorch.data import Splits
from dl.mytorch.data.text.translation import PairSplits, token_splits


def splits(config: train.Config, shared: bool = True) -> Splits:
    words = "a b c d e f g".split()
    lengths = torch.randint(1, 9, (50, 2), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [tuple(" ".join(words[(i + k) % 7] for k in range(n)) for n in both) for i, both in enumerate(lengths)]
    if not shared:  # sources without the last word
        pairs = [(source.replace("g", "a"), target) for source, target in pairs]
    return token_splits(config, PairSplits(pairs[:36], pairs[36:43], pairs[43:]), shared=shared)
