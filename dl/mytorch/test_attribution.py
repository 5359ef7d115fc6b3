"""Grad-CAM and the fast gradient sign method: by hand, and against captum."""

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch import layers
from dl.mytorch.attribution import fgsm, grad_cam


class Fixed(nn.Module):
    """Two maps that the image is multiplied by, and logits that weigh their means."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.act(self.maps(x * 1.0))
        return torch.stack([4 * maps[:, 0].mean((1, 2)) - 3 * maps[:, 1].mean((1, 2)), maps.sum((1, 2, 3))], dim=1)


def small() -> nn.Module:
    torch.manual_seed(0)
    return layers.sequential(
        conv1=nn.Conv2d(3, 4, 3),
        act1=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(4, 5, 3),
        act2=nn.ReLU(inplace=True),
        flat=nn.Flatten(),
        fc=nn.Linear(80, 6),
    ).double()


def test_maps_are_weighted_by_their_mean_gradients() -> None:
    image = torch.tensor([[[[1.0, 2], [0, 1]], [[3, 0], [1, 0]]]])
    found = grad_cam(Fixed(), image, torch.tensor([0]), "maps")
    # Gradients 1 and -0.75; where the ReLU is 0 they are 0, so the means are 0.75 and -0.375.
    assert found[0] == "maps"
    torch.testing.assert_close(found[1], (0.75 * image[:, 0] - 0.375 * image[:, 1]).relu())


def test_a_layer_changed_in_place_afterwards_keeps_its_own_output() -> None:
    image = torch.randn(1, 2, 3, 3)
    before = grad_cam(Fixed(), image, torch.tensor([1]), "maps")[1]
    slope = (image > 0).float().mean((2, 3), keepdim=True)
    torch.testing.assert_close(before, (image * slope).sum(1).relu())


def test_the_default_is_the_last_layer_with_a_map() -> None:
    assert grad_cam(small(), torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1]))[0] == "act2"


def test_tokens_are_a_square_after_the_class_token() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(1, 4, 2, 2)
            self.block = nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).mT
            tokens = self.block(torch.cat([tokens[:, :1] * 0, tokens], dim=1))
            return self.head(tokens.softmax(1).square().sum(1))

    name, found = grad_cam(Tokens(), torch.randn(2, 1, 6, 6), torch.tensor([0, 2]))
    assert name == "block" and found.shape == (2, 3, 3)


def test_a_layer_without_a_map_is_refused() -> None:
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="layer 'fc' gives no map"):
        grad_cam(small(), images, torch.tensor([0]), "fc")
    with pytest.raises(ValueError, match="no layer gives such a map"):
        grad_cam(layers.sequential(flat=nn.Flatten(), fc=nn.Linear(192, 2)).double(), images, torch.tensor([0]))


def test_every_pixel_moves_by_the_step_and_the_loss_rises() -> None:
    model, images, classes = small(), torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.tensor([3, 4])
    changed = fgsm(model, images, classes, 0.01, -1.0, 2.0)
    moved = (changed - images).abs()
    assert moved.max().item() == pytest.approx(0.01) and (moved > 0.0099).double().mean() > 0.9
    losses = [nn.functional.cross_entropy(model(x), classes).item() for x in (images, changed)]
    assert losses[1] > losses[0]
    far = fgsm(model, images, classes, 9.0, torch.zeros(3, 1, 1), 1.0)
    assert torch.equal(far == images, moved == 0) and ((far == 0) | (far == 1) | (moved == 0)).all()


@pytest.mark.parity
def test_both_are_captum_s() -> None:
    captum = pytest.importorskip("captum.attr")
    from captum.robust import FGSM

    model, images, classes = small(), torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.tensor([3, 4])
    for layer in ("conv1", "conv2", "act2"):
        theirs = captum.LayerGradCam(model, model.get_submodule(layer)).attribute(images, classes, relu_attributions=True)
        torch.testing.assert_close(grad_cam(model, images, classes, layer)[1], theirs[:, 0], rtol=0, atol=1e-9)
    loss = nn.CrossEntropyLoss(reduction="none")
    theirs = FGSM(model, loss_func=loss, lower_bound=0.1, upper_bound=0.9).perturb(images, epsilon=0.2, target=classes)
    torch.testing.assert_close(fgsm(model, images, classes, 0.2, 0.1, 0.9), theirs, rtol=0, atol=1e-9)
