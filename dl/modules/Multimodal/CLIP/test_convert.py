"""Our CLIP with the weights of transformers' CLIPModel, and SigLIP's loss beside its SiglipModel's. Parity tier."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Multimodal.CLIP.convert import NAMES, from_transformers
from dl.modules.Multimodal.CLIP.loss import clip_loss, siglip_loss
from dl.modules.Multimodal.CLIP.model import CLIP, Embedded
from dl.mytorch.names import substituted
from dl.mytorch.testing.twins import assert_within
from dl.mytorch.torchvision_compat import import_torchvision

pytestmark = pytest.mark.parity

END = 90
TEXT = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "projection_dim": 8, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 8, "bos_token_id": 98, "pad_token_id": 1, "eos_token_id": END}
VISION = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 4}


@pytest.fixture(autouse=True, scope="module")
def torchvision() -> None:
    """What transformers imports may otherwise stop, beside a CPU build of torch."""
    import_torchvision()


def reference(**text: Any) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=TEXT | text, vision_config=VISION, projection_dim=8))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.constant_(model.logit_scale, 1.5)
    return model


def inputs() -> tuple[Tensor, Tensor]:
    """Texts of three lengths, padded with 1 and with the end's own id, and one with a larger id than the end's."""
    tokens = torch.tensor([[98, 5, 6, END, 1, 1, 1, 1], [98, 99, 7, 8, 9, 3, END, END], [98, END, 1, 4, END, 1, 1, 1]])
    return torch.randn(3, 3, 16, 16, dtype=torch.float64), tokens


def test_logits_losses_gradients_and_three_steps_are_those_of_transformers() -> None:
    theirs = reference()
    ours, theirs = from_transformers(theirs).double(), theirs.double()
    images, tokens = inputs()
    names = dict(zip([name for name, _ in theirs.named_parameters()], theirs.parameters()))
    pairs = {own: names[other] for other, own in renamed(theirs).items()}
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for model in (ours, theirs)]
    for step in range(3):
        embedded, expected = ours(images, tokens), theirs(input_ids=tokens, pixel_values=images, return_loss=True)
        assert_within(f"logits at step {step}", embedded.logits(), expected.logits_per_image, 1e-9)
        loss = clip_loss(embedded)
        assert_within(f"loss at step {step}", loss, expected.loss, 1e-9)
        for optimizer, each in zip(optimizers, (loss, expected.loss)):
            optimizer.zero_grad()
            each.backward()
        for name, parameter in ours.named_parameters():
            assert_within(f"gradient of {name}", parameter.grad.view_as(pairs[name].grad), pairs[name].grad, 1e-9)
        for optimizer in optimizers:
            optimizer.step()
    for name, parameter in ours.named_parameters():
        assert_within(f"{name} after three steps", parameter.view_as(pairs[name]), pairs[name], 1e-9)


def renamed(theirs: nn.Module) -> dict[str, str]:
    return {name: substituted(name, NAMES) for name, _ in theirs.named_parameters()}


def test_an_end_of_2_means_the_largest_id_as_in_the_first_published_configs() -> None:
    theirs = reference(eos_token_id=2)
    ours, theirs = from_transformers(theirs).double(), theirs.double()
    images, tokens = inputs()
    tokens = tokens.clone().masked_fill(tokens == 99, 4)
    tokens[tokens == END] = 99
    expected = theirs(input_ids=tokens, pixel_values=images)
    assert_within("logits", ours(images, tokens).logits(), expected.logits_per_image, 1e-9)


def test_other_activations_and_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="activation gelu"):
        from_transformers(reference(hidden_act="gelu"))
    with pytest.raises(ValueError, match="a Linear is no CLIPModel"):
        from_transformers(nn.Linear(1, 1))


def test_siglip_s_loss_is_that_of_transformers() -> None:
    from transformers import SiglipConfig, SiglipModel

    text = {name: value for name, value in TEXT.items() if not name.startswith("projection")} | {"projection_size": 16}
    config = SiglipConfig(text_config=text, vision_config={k: v for k, v in VISION.items() if k != "projection_dim"})
    torch.manual_seed(0)
    theirs = SiglipModel(config).double()
    nn.init.constant_(theirs.logit_scale, 1.2)
    nn.init.constant_(theirs.logit_bias, -3.0)
    images, tokens = inputs()
    expected = theirs(input_ids=tokens, pixel_values=images, return_loss=True)
    parts = [expected.image_embeds.detach().requires_grad_(), expected.text_embeds.detach().requires_grad_()]
    scale, bias = theirs.logit_scale.detach().exp().view(1), theirs.logit_bias.detach().view(1).requires_grad_()
    loss = siglip_loss(Embedded(*parts, scale, bias))
    assert_within("loss", loss, expected.loss, 1e-9)
    gradients = torch.autograd.grad(expected.loss, [expected.image_embeds, expected.text_embeds, theirs.logit_bias])
    for name, own, other in zip(("images", "texts", "bias"), torch.autograd.grad(loss, [*parts, bias]), gradients):
        assert_within(f"gradient of {name}", own.view_as(other), other, 1e-9)


def test_a_copy_is_ours_in_every_weight() -> None:
    model = from_transformers(reference())
    assert isinstance(model, CLIP) and sum(p.numel() for p in model.parameters()) == 12_033
