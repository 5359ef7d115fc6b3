"""What the tests of DeepSeek-V3 share."""

from dl.modules.GPT.testing import Model, randomized


def randomize(model: Model) -> Model:
    """Return weights and biases of routers as after training."""
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):
            buffer.normal_(0, 0.3)
    return randomized(model)
