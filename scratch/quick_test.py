"""A place to try things: run a cell (Shift+Enter on `# %%` in VS Code), or the whole file. Git ignores its neighbours."""

# %%
import torch

from dl.modules.CNN.LeNet.model import build
from dl.mytorch import Probe, layer_summary
from dl.mytorch.data.images import idx

# %% A model, layer by layer
model = build("modern")
print(layer_summary(model, torch.zeros(1, 1, 28, 28)))

# %% The output of a layer for a real image
train, _ = idx.load("fashion_mnist-sample")
with Probe(model, "c1", "f6") as probe:
    model(train["images"][:1] / 255)
print({name: tuple(output.shape) for name, output in probe.outputs.items()})
