"""DPO.

"Direct Preference Optimization: Your Language Model is Secretly a Reward Model", Rafael Rafailov, Archit Sharma, Eric
Mitchell, Stefano Ermon, Christopher D. Manning & Chelsea Finn, 2023, https://arxiv.org/abs/2305.18290: a language model is
tuned on pairs of answers, of which one was preferred, by a classification loss; no reward model, no sampling while it learns.
The paper's networks are Pythia 2.8B and GPT-2 large; these are SFT's, which `--init-from` takes from its run.

The losses of three later papers (IPO, KTO, ORPO) are options, see losses.py.

Deviations:
- The reference's log-probabilities are computed once, before training, since they never change.
- KTO learns from pairs here, each of which is a desirable and an undesirable answer. Its reference point is the mean over
  answers to the next other prompt of the data, chosen and rejected in turn; the paper takes those of the batch. In evaluation
  it is that of all validation pairs.
- ORPO's likelihood is that of prompt and answer, as in the authors' code (https://github.com/xfactlab/orpo).
"""

from dl.modules.Alignment.SFT.model import PRESETS, build, example

__all__ = ["PRESETS", "build", "example"]
