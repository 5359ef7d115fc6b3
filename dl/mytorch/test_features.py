"""Features of a network and of a data set."""

import torch
from torch import Tensor, nn

from dl.mytorch.data.loader import Loader
from dl.mytorch.features import encode, features_and_logits, represent
from dl.mytorch.layers import sequential


class Encoder(nn.Module):
    def represent(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]


def test_a_classifier_s_features_are_what_its_last_layer_reads() -> None:
    network = sequential(conv=nn.Conv2d(1, 3, 1), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(3, 5))
    images = torch.randn(2, 1, 4, 4)
    features, logits = features_and_logits(network, images)
    torch.testing.assert_close(features, network.conv(images).mean((2, 3)))
    assert torch.equal(logits, network(images)) and torch.equal(represent(network, images), features)
    maps, _ = features_and_logits(network, images, "conv")
    torch.testing.assert_close(maps, features)


def test_an_encoder_says_itself_what_its_features_are() -> None:
    images = torch.arange(8.0).view(2, 1, 2, 2)
    assert represent(Encoder(), images).tolist() == [[0, 1], [4, 5]]


def test_a_data_set_is_encoded_with_its_labels_in_order() -> None:
    images = torch.arange(20.0).view(5, 1, 2, 2)
    loader = Loader({"images": images, "labels": torch.arange(5)}, 2)
    features, labels = encode(Encoder().represent, loader, torch.device("cpu"), channels_last=True)
    assert torch.equal(features, images.flatten(1)[:, :2]) and labels.tolist() == [0, 1, 2, 3, 4]
