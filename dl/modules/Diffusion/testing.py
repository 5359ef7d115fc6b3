"""What the tests of diffusion models share."""

from dl.mytorch.data import Batch, synthetic


def one_image() -> Batch:
    """Return one image (1, 8, 8) with its label, eight times."""
    return {name: tensor[:1].expand(8, *tensor.shape[1:]) for name, tensor in synthetic.images(1, size=8).items()}
