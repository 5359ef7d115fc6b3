"""What the tests of agents with a replay share."""

from typing import Any

# Flags of a training of a few iterations; each agent adds its environment steps and the sizes that follow from them.
SMALL: dict[str, Any] = {
    "out": "unused",
    "model": "tiny",
    "updates": 2,
    "batch_size": 4,
    "eval_every": 2,
    "save_every": 3,
    "device": "cpu",
}
