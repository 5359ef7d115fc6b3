"""Environments of gymnasium, for agents that learn while they act (extra `[rl]`).

In reading order: spaces.py, state.py, member.py (one environment), vector.py (several, for training), play.py (whole episodes,
for evaluation), film.py (an episode to look at), experience.py (the loader of what an agent makes), replay.py (transitions to
learn from again).
"""

from dl.mytorch.environments.experience import Experience
from dl.mytorch.environments.film import record, save_gif, strip
from dl.mytorch.environments.play import TEST, VALIDATION, Episodes, NegativeReturn, Policy, play, spaces_of
from dl.mytorch.environments.spaces import Spaces
from dl.mytorch.environments.vector import Environments, Transitions

__all__ = [
    "TEST",
    "VALIDATION",
    "Environments",
    "Episodes",
    "Experience",
    "NegativeReturn",
    "Policy",
    "Spaces",
    "Transitions",
    "play",
    "record",
    "save_gif",
    "spaces_of",
    "strip",
]
