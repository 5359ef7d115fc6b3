"""MAE: patches, masks, targets by hand; what hidden patches may change; transformers' ViTMAE; and through its recipe."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.modules.SelfSupervised.MAE import train
from dl.modules.SelfSupervised.MAE.model import MAE, build, patchify, positions, unpatchify
from dl.modules.SelfSupervised.MAE.task import Reconstruction, normalized, reconstruction_loss
from dl.modules.SelfSupervised.testing import byte_splits, view_batch
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.torchvision_compat import import_torchvision


def double(preset: str = "tiny", **overrides: Any) -> MAE:
    """A network in float64 whose biases, norms and positions count."""
    torch.manual_seed(0)
    model = build(preset, **overrides).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def inputs(count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.rand(count, 16, generator=generator, dtype=torch.float64)


# ---- patches, masks and targets ------------------------------------------------------------------------------------


def test_patches_go_row_by_row_and_hold_their_pixels_channels_last() -> None:
    image = torch.arange(32.0).view(1, 2, 4, 4)
    patches = patchify(image, 2)
    assert patches[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]  # the second patch of the first row
    assert patches[0, 2, 0] == 8 and torch.equal(unpatchify(patches, 2), image)


def test_the_patches_of_least_noise_are_visible() -> None:
    model = build("tiny")  # 16 patches, of which 4
    noise = torch.linspace(1, 0, 16).repeat(2, 1)
    assert model.visible(noise).sort().values.tolist() == [[12, 13, 14, 15]] * 2
    assert model.hidden(noise).tolist() == [[1.0] * 12 + [0.0] * 4] * 2
    assert build("tiny", mask_ratio=0.7).visible(noise).shape == (2, 4)  # 16 * 0.3 = 4.8


def test_targets_are_in_units_of_the_patch_s_deviation() -> None:
    found = normalized(torch.tensor([[1.0, 2, 3, 6]]))
    torch.testing.assert_close(found, torch.tensor([[-0.92582, -0.46291, 0, 1.38873]]), rtol=0, atol=1e-5)


def test_the_loss_is_over_hidden_patches_alone() -> None:
    predictions, targets = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 3], [100, 100]]])
    hidden = torch.tensor([[1.0, 0]])
    assert reconstruction_loss(predictions, targets, hidden).item() == 5
    targets[0, 1] = 7
    assert reconstruction_loss(predictions, targets, hidden).item() == 5


def test_positions_of_the_class_token_are_0_and_columns_come_first() -> None:
    table = positions(3, 8)  # frequencies 1 and 1/100
    assert table.shape == (10, 8) and not table[0].any()
    column, row = torch.tensor(2.0), torch.tensor(1.0)  # of patch 5
    expected = [f(place * w) for place in (column, row) for f in (torch.sin, torch.cos) for w in (1, 0.01)]
    torch.testing.assert_close(table[1 + 5], torch.stack(expected))


# ---- the network ---------------------------------------------------------------------------------------------------


def test_hidden_patches_change_nothing_and_visible_ones_do() -> None:
    model, (images, noise) = double(), inputs()
    patches, hidden = patchify(images, 2), model.hidden(noise)[..., None]
    with torch.no_grad():
        found = model(images, noise)
        changed = unpatchify(torch.where(hidden > 0, torch.randn_like(patches), patches), 2)
        assert torch.equal(model(changed, noise), found)
        changed = unpatchify(torch.where(hidden > 0, patches, patches + 1), 2)
        assert not torch.isclose(model(changed, noise), found).any(dim=(1, 2)).all()


def test_a_prediction_is_for_its_own_place_whatever_the_order_of_the_visible_ones() -> None:
    """Noise in another order hides the same patches, so it gives the same predictions."""
    model, (images, noise) = double(), inputs()
    places = model.visible(noise)
    other = noise.clone()
    other.scatter_(1, places, noise.gather(1, places).flip(1))
    assert not torch.equal(model.visible(other), places)
    torch.testing.assert_close(model(images, other), model(images, noise), rtol=0, atol=1e-12)


def test_features_are_the_mean_of_all_patches() -> None:
    model, (images, _) = double(), inputs()
    everywhere = torch.arange(16).repeat(3, 1).flip(1)
    expected = model.encode(images, everywhere)[:, 1:].mean(1)
    torch.testing.assert_close(model.represent(images), expected, rtol=0, atol=1e-12)


def test_the_paper_s_encoder_has_the_parameters_of_a_vit() -> None:
    with without_values():
        model = build("vit_b_16")
        encoder = [model.patch_embedding, model.blocks, model.norm]
        assert sum(map(count_parameters, encoder)) + 768 == 86_567_656 - 197 * 768 - 769_000  # positions are fixed, no classes
        assert model.num_patches == 196 and model.visible(torch.zeros(1, 196)).shape == (1, 49)


def transformers_twin(model: MAE) -> Any:
    """transformers' network with the weights of a "tiny" one."""
    import_torchvision()  # transformers would import a build that does not fit
    library = pytest.importorskip("transformers", reason='transformers is not installed: pip install -e ".[parity]"')
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    decoder = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    twin = library.ViTMAEForPreTraining(
        library.ViTMAEConfig(
            **{**sizes, "image_size": 8, "patch_size": 2, "norm_pix_loss": True, "layer_norm_eps": 1e-6},
            **{f"decoder_{name}": value for name, value in decoder.items()},
        )
    )
    twin = twin.double()
    names = {"attention.query": "attention.q_proj", "attention.key": "attention.k_proj", "attention.value": "attention.v_proj"}
    names |= {"attention.output": "attention.o_proj", "norm1": "layernorm_before", "norm2": "layernorm_after"}
    names |= {"feed_forward.fc1": "mlp.fc1", "feed_forward.fc2": "mlp.fc2"}
    table = {"norm": twin.vit.layernorm, "decoder_embedding": twin.decoder.decoder_embed}
    table |= {"decoder_norm": twin.decoder.decoder_norm, "head": twin.decoder.decoder_pred}
    layers = {"blocks.0": twin.vit.layers[0], "decoder_blocks.0": twin.decoder.decoder_layers[0]}
    table |= {f"{block}.{ours}": layer.get_submodule(name) for block, layer in layers.items() for ours, name in names.items()}
    with torch.no_grad():
        for ours, layer in table.items():
            layer.load_state_dict(model.get_submodule(ours).state_dict())
        kernel = model.patch_embedding.weight.view(16, 2, 2, 3).permute(0, 3, 1, 2)
        twin.vit.embeddings.patch_embeddings.projection.weight.copy_(kernel)
        twin.vit.embeddings.patch_embeddings.projection.bias.copy_(model.patch_embedding.bias)
        twin.vit.embeddings.cls_token.copy_(model.class_token)
        twin.decoder.mask_token.copy_(model.mask_token)
        twin.vit.embeddings.position_embeddings.copy_(model.positions)  # a fresh network has none
        twin.decoder.decoder_pos_embed.copy_(model.decoder_positions)
    return twin


@pytest.mark.parity
def test_predictions_loss_and_gradients_are_those_of_transformers() -> None:
    model, (images, noise) = double(), inputs()
    twin = transformers_twin(model)
    expected = twin(images, noise=noise)
    found = model(images, noise)
    loss = reconstruction_loss(found, normalized(patchify(images, 2)), model.hidden(noise))
    torch.testing.assert_close(found, expected.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.hidden(noise), expected.mask.double())
    assert loss.item() == pytest.approx(expected.loss.item(), abs=1e-9)
    loss.backward(), expected.loss.backward()
    for ours, theirs in (
        (model.class_token, twin.vit.embeddings.cls_token),
        (model.mask_token, twin.decoder.mask_token),
        (model.blocks[0].attention.query.weight, twin.vit.layers[0].attention.q_proj.weight),
        (model.head.weight, twin.decoder.decoder_pred.weight),
    ):
        torch.testing.assert_close(ours.grad, theirs.grad.view_as(ours), rtol=0, atol=1e-9)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def batch(count: int = 8) -> dict[str, Tensor]:
    noise = torch.rand(count, 16, generator=torch.Generator().manual_seed(0))
    given = view_batch(count)
    return {"images": given["images"], "labels": given["labels"], "noise": noise}


def reconstruction() -> Reconstruction:
    return Reconstruction(Loader({name: batch()[name] for name in ("images", "labels")}, 8), build("tiny").dim)


def config(**flags: Any) -> train.Config:
    return train.Config(**{"model": "tiny", "epochs": 1, "eval_every": 2, "batch_size": 4, **flags})


def test_a_mask_that_hides_all_or_nothing_is_refused() -> None:
    for flags, says in (({"mask_ratio": 1.0}, "--mask-ratio"), ({"mask_ratio": 0.0}, "--mask-ratio")):
        with pytest.raises(UserError, match=says):
            config(**flags)
    with pytest.raises(UserError, match="of 64 patches 0 would be visible"):
        train.build_model(config(model="small", mask_ratio=0.99))


def test_evaluation_measures_neighbours_and_shows_the_hidden_patches_in_their_own_units() -> None:
    model, task = build("tiny").eval(), reconstruction()
    with torch.no_grad():
        task.begin_evaluation(model)
        output = task.eval_step(model, batch())
    assert output.outputs["wrong"].shape == (8,) and output.outputs["embeddings"].shape == (8, 16)
    shown = task.preview(model)["reconstructed"]
    assert isinstance(shown, Tensor) and shown.shape[0] == 3 and 0 <= shown.min() and shown.max() <= 1
    predictions = model(batch()["images"], batch()["noise"])
    targets, hidden = normalized(patchify(batch()["images"], 2)), model.hidden(batch()["noise"])
    squares = (F.mse_loss(predictions, targets, reduction="none").mean(-1))[hidden > 0]
    torch.testing.assert_close(output.loss, squares.mean())


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    batch,
    splits=lambda _: byte_splits(32),
    task=reconstruction,
    inputs=lambda: (batch(3)["images"], batch(3)["noise"]),
    overfit=[testing.Overfit(lr=1e-2, below=0.85)],
)
