"""GRPO.

"DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", Zhihong Shao, Peiyi Wang, Qihao Zhu and 8
others, 2024, https://arxiv.org/abs/2402.03300, section 4.1: a language model draws several answers to a prompt, and learns from
those that are better than their group. Any language model will do; the presets are those of SFT.

Deviations: see README.md.
"""

from dl.modules.Alignment.SFT.model import PRESETS as PRESETS
from dl.modules.Alignment.SFT.model import build as build
from dl.modules.Alignment.SFT.model import example as example
