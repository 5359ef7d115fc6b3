"""ViT against torchvision's, by its laws, and through its real recipe."""

import copy
import inspect
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dl.modules.Transformers.ViT import train
from dl.modules.Transformers.ViT.convert import from_torchvision, interpolate_positions
from dl.modules.Transformers.ViT.model import PRESETS, Block, ViT, build
from dl.modules.Transformers.ViT.task import AttentiveClassification, class_attention
from dl.mytorch import Probe, plot, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

SHORT = {"image_size": 12, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12, "num_classes": 5}


def randomized(model: nn.Module) -> nn.Module:
    """As after training: nothing is 0 or 1 any more, so that everything shows in the output."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "dim", "depth", "patch_size", "count"),
    [
        ("vit_ti_16", 192, 12, 16, 5_717_416),
        ("vit_s_16", 384, 12, 16, 22_050_664),
        ("vit_b_16", 768, 12, 16, 86_567_656),  # this and those below: as torchvision's documentation says
        ("vit_b_32", 768, 12, 32, 88_224_232),
        ("vit_l_16", 1024, 24, 16, 304_326_632),
        ("vit_l_32", 1024, 24, 32, 306_535_400),
        ("vit_h_14", 1280, 32, 14, 632_045_800),
    ],
)
def test_published_networks_have_the_parameters_of_their_tables(
    preset: str, dim: int, depth: int, patch_size: int, count: int
) -> None:
    with without_values():
        assert count_parameters(build(preset)) == count
    embedding = 3 * patch_size**2 * dim + dim + dim + (1 + (224 // patch_size) ** 2) * dim
    block = 4 * (dim * dim + dim) + (4 * dim * dim + 4 * dim) + (4 * dim * dim + dim) + 4 * dim
    assert count == embedding + depth * block + 2 * dim + 1000 * dim + 1000


def test_heads_are_64_wide_and_80_in_vit_h() -> None:
    for preset, options in PRESETS.items():
        if preset.startswith("vit"):
            assert options["dim"] / options["num_heads"] == (80 if preset == "vit_h_14" else 64)


@pytest.mark.parametrize(("image_size", "patch_size"), [(28, 4), (32, 8)])
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_logits_have_one_row_per_image(preset: str, image_size: int, patch_size: int) -> None:
    model = build(preset, image_size=image_size, patch_size=patch_size, in_channels=2, num_classes=7)
    with Probe(model, "patch_embedding", "dropout") as probe:
        assert model(torch.randn(3, 2, image_size, image_size)).shape == (3, 7)
    grid = image_size // patch_size
    assert probe["patch_embedding"].shape[2:] == (grid, grid) and probe["dropout"].shape[1] == 1 + grid**2


# ---- torchvision ---------------------------------------------------------------------------------------------------


class TorchvisionTwin(nn.Module):
    """Our parameters, run through torchvision's code."""

    def __init__(self, model: ViT, reference: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.reference = [reference]  # in a list: its own parameters do not count

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        layers = {"conv_proj": model.patch_embedding, "encoder.ln": model.norm, "heads.head": model.head.output}
        if len(model.head) > 1:
            layers["heads.pre_logits"] = model.head.hidden
        named = {"class_token": model.class_token.view(1, 1, -1), "encoder.pos_embedding": model.position_embedding[None]}
        for i, block in enumerate(model.blocks):
            prefix = f"encoder.layers.encoder_layer_{i}"
            layers |= {f"{prefix}.ln_1": block.norm1, f"{prefix}.ln_2": block.norm2}
            layers |= {f"{prefix}.mlp.0": block.feed_forward.fc1, f"{prefix}.mlp.3": block.feed_forward.fc2}
            attention = testing.torch_names(block.attention)
            named |= {f"{prefix}.self_attention.{name}": tensor for name, tensor in attention.items()}
        for name, layer in layers.items():
            named |= {f"{name}.{part}": tensor for part, tensor in layer.named_parameters()}
        self.reference[0].train(self.training)
        return functional_call(self.reference[0], named, (images,))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"image_size": 16, "attention_dropout": 0.3, "representation_size": 6}], ids=str)
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, options: dict[str, Any], mode: str
) -> None:
    reference = randomized(torchvision.models.VisionTransformer(**{**SHORT, **options}))
    model = from_torchvision(reference)
    images = torch.randn(2, 3, reference.image_size, reference.image_size)
    testing.assert_same_as(model, TorchvisionTwin(model, reference), images, train=mode == "train")
    model, reference = model.double().eval(), reference.double().eval()
    torch.testing.assert_close(model(images.double()), reference(images.double()), rtol=0, atol=1e-9)


@pytest.mark.parity
def test_published_vit_b_16_is_torchvision_s(torchvision: ModuleType) -> None:
    reference = randomized(torchvision.models.vit_b_16())
    model = from_torchvision(reference)
    assert str(model) == str(build("vit_b_16"))
    images = torch.randn(1, 3, 224, 224)
    testing.assert_same_as(model, TorchvisionTwin(model, reference), images, steps=1)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), reference.eval()(images), rtol=0, atol=1e-4)


LARGE = [pytest.param(name, marks=pytest.mark.parity) for name in ("vit_l_16", "vit_l_32", "vit_h_14")]


@pytest.mark.parametrize("name", ["vit_b_32", *LARGE])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)
    assert model.image_size == preset.image_size and model.grid == preset.grid


def test_dropouts_and_eps_are_those_of_the_reference(torchvision: ModuleType) -> None:
    norm = partial(nn.LayerNorm, eps=1e-3)
    reference = torchvision.models.VisionTransformer(**SHORT, dropout=0.1, attention_dropout=0.2, norm_layer=norm)
    model = from_torchvision(reference)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.1] + [0.2, 0.1, 0.1] * 2
    assert {block.attention.dropout.p for block in model.blocks} == {0.2}
    assert [module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)] == [1e-3] * 5


def test_networks_of_other_papers_are_refused(torchvision: ModuleType) -> None:
    stem = [torchvision.models.vision_transformer.ConvStemConfig(8, 3, 4)]
    for options in ({"conv_stem_configs": stem}, {"norm_layer": nn.Identity}):
        with pytest.raises(ValueError, match="no network of this paper"):
            from_torchvision(torchvision.models.VisionTransformer(**SHORT, **options))


@pytest.mark.parametrize("image_size", [8, 20])
def test_positions_are_interpolated_as_torchvision_does(torchvision: ModuleType, image_size: int) -> None:
    reference = randomized(torchvision.models.VisionTransformer(**SHORT))
    resized = torchvision.models.VisionTransformer(**{**SHORT, "image_size": image_size})
    weights = torchvision.models.vision_transformer.interpolate_embeddings(image_size, 4, reference.state_dict())
    resized.load_state_dict(weights)
    images = torch.randn(2, 3, image_size, image_size)
    torch.testing.assert_close(from_torchvision(reference, image_size).eval()(images), resized.eval()(images))


def test_interpolation_keeps_corners_and_the_class_token() -> None:
    table = torch.randn(1 + 9, 4)
    larger = interpolate_positions(table, 5)
    torch.testing.assert_close(larger[[0, 1, 5, 21, 25]], table[[0, 1, 3, 7, 9]])
    assert interpolate_positions(table, 3) is table


# ---- laws ----------------------------------------------------------------------------------------------------------


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", patch_size=7, epochs=1, batch_size=4, dropout=0.1),
    lambda: synthetic.images(8),
    variants=[{"head_dim": 6}],
    prepare=randomized,
    overfit=[testing.Overfit({}, lambda: synthetic.images(16))],
)


def test_positions_alone_tell_patches_apart() -> None:
    model, images = randomized(build("tiny", patch_size=14)).double(), torch.randn(3, 1, 28, 28, dtype=torch.float64)
    swapped = torch.cat([images[..., 14:], images[..., :14]], dim=-1)  # left and right patches
    assert not torch.allclose(model(swapped), model(images))
    model.position_embedding.data[1:] = 0
    torch.testing.assert_close(model(swapped), model(images), rtol=0, atol=1e-9)


def test_dropout_begins_at_the_embeddings() -> None:
    model = build("tiny", dropout=1.0)
    with Probe(model, "dropout", "blocks.1") as probe:
        model(torch.randn(2, 1, 28, 28))
    assert not probe["dropout"].any() and not probe["blocks.1"].any()


def test_initialisation_is_that_of_the_paper_s_code() -> None:
    model = build("small", dim=128, head_dim=96, in_channels=8)
    fc1, query = model.blocks[2].feed_forward.fc1, model.blocks[2].attention.query
    kernel = (1 / (8 * 4 * 4)) ** 0.5  # the standard deviation is that before the ends are cut off
    assert model.patch_embedding.weight.std().item() == pytest.approx(0.88 * kernel, rel=0.02)
    assert model.patch_embedding.weight.abs().max() <= 2 * kernel
    assert model.head.hidden.weight.std().item() == pytest.approx(0.88 * 128**-0.5, rel=0.02)
    assert fc1.weight.std().item() == pytest.approx((2 / (128 + 512)) ** 0.5, rel=0.02)
    assert query.weight.abs().max().item() == pytest.approx((6 / 256) ** 0.5, rel=0.01)
    assert 0.5e-6 < fc1.bias.std() < 2e-6
    for zero in (query.bias, model.patch_embedding.bias, model.class_token, *model.head.output.parameters()):
        assert not zero.any()


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="takes images of 28 x 28; got 28 x 32"):
        build("tiny")(torch.zeros(1, 1, 28, 32))
    with pytest.raises(ValueError, match="patches of 16 pixels do not divide an image of 28"):
        build("vit_ti_16", image_size=28)


# ---- the block -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_block_is_torch_s_in_outputs_gradients_and_steps(dropout: float, mode: str) -> None:
    block = randomized(Block(8, 2, 12, dropout, attention_dropout=dropout, norm_eps=1e-3))
    block.dropout.p = 0.0  # draws in another order of memory than torch's
    sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "batch_first": True}
    reference = nn.TransformerEncoderLayer(**sizes, dropout=dropout, activation="gelu", norm_first=True, layer_norm_eps=1e-3)
    testing.assert_same_as(block, testing.TorchBlock(block, reference), torch.randn(3, 6, 8), train=mode == "train")


@pytest.mark.parametrize("place", ["dropout", "attention_dropout", "hidden_dropout"])
def test_each_dropout_acts_in_its_place_in_training_only(place: str) -> None:
    """With everything dropped, what is left shows where: nothing of a branch, or the bias after it."""
    block, x = Block(8, 2, 32, dropout=0.0, attention_dropout=0.0, norm_eps=1e-6), torch.randn(2, 3, 8)
    attended = x + block.attention(block.norm1(x))
    expected = {
        "dropout": x,
        "attention_dropout": x + block.attention.output.bias,
        "hidden_dropout": attended + block.feed_forward.fc2.bias,
    }[place]
    if place == "attention_dropout":
        expected = expected + block.feed_forward(block.norm2(expected))
    {"dropout": block, "attention_dropout": block.attention, "hidden_dropout": block.feed_forward}[place].dropout.p = 1.0
    torch.testing.assert_close(block(x), expected)
    block.eval()
    assert not torch.allclose(block(x), expected)


def test_without_positions_a_permutation_of_the_tokens_permutes_the_output() -> None:
    block, order = randomized(Block(8, 2, 12, 0.0, 0.0, 1e-6)).double(), torch.tensor([3, 0, 5, 1, 4, 2])
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], rtol=0, atol=1e-12)


def test_the_feed_forward_is_four_times_as_wide_by_default() -> None:
    assert {block.feed_forward.fc1.out_features for block in build("tiny").blocks} == {4 * 16}
    with pytest.raises(ValueError, match="dim 16 has to divide into num_heads 3"):
        build("tiny", num_heads=3)


def test_weights_and_moments_of_version_0_1_are_found_by_their_names() -> None:
    layers = {f"attention.layer.{name}": f"attention.{name}" for name in ("query", "key", "value", "output")}
    layers |= {"attention.norm": "norm1"} | {f"feed_forward.layer.{name}": f"feed_forward.{name}" for name in ("fc1", "fc2")}
    layers = {f"blocks.0.{old}": f"blocks.0.{new}" for old, new in (layers | {"feed_forward.norm": "norm2"}).items()}
    layers = {"patch_embedding": "patch_embedding"} | layers | {"norm": "norm", "head.output": "head.output"}
    earlier = {"class_token": "class_token", "positions.table": "position_embedding"}
    earlier |= {f"{old}.{kind}": f"{new}.{kind}" for old, new in layers.items() for kind in ("weight", "bias")}
    testing.assert_earlier_names_load(build("tiny", depth=1), earlier)


# ---- attention figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, -1])
def test_class_attention_is_the_softmax_of_the_class_token_s_scores(block: int) -> None:
    model, images = randomized(build("tiny")).eval(), torch.randn(3, 1, 28, 28)
    with Probe(model, f"blocks.{block % 2}.norm1") as probe:
        model(images)
    layer, tokens = model.blocks[block].attention, probe[f"blocks.{block % 2}.norm1"]
    query, keys = layer.query(tokens[:, 0]).view(3, 2, 1, 8), layer.key(tokens).view(3, 17, 2, 8).transpose(1, 2)
    weights = ((query * keys).sum(-1) / 8**0.5).softmax(-1)  # (3, heads, 17)
    torch.testing.assert_close(class_attention(model, images, block), weights[..., 1:].view(3, 2, 4, 4))


def test_report_shows_the_first_images_of_the_test(monkeypatch: pytest.MonkeyPatch, no_figures: None) -> None:
    drawn: list[tuple] = []
    monkeypatch.setattr(plot, "attention_maps", lambda *arguments: drawn.append(arguments) or plot.figure(1, 1))
    task, model = AttentiveClassification(class_names=[f"class {i}" for i in range(10)]), build("tiny").eval()
    for seed in (1, 2):
        batch = synthetic.images(10, seed=seed)
        task.begin_evaluation(model)  # forgets the images of the evaluation before
        for part in (slice(0, 9), slice(9, 10)):
            task.eval_step(model, {name: values[part] for name, values in batch.items()})
    assert "attention" in task.report(model)
    images, weights, titles = drawn[0]
    assert torch.equal(images, batch["images"][:8]) and weights.shape == (8, 2, 4, 4)
    assert titles == [f"class {label}" for label in batch["labels"][:8]]


def test_report_of_a_rank_without_images_is_empty() -> None:
    task, model = AttentiveClassification(), build("tiny")
    task.begin_evaluation(model)
    assert task.report(model) == {}


@torch.no_grad()
def test_every_argument_of_torchvision_s_class_is_carried_over_or_refused(torchvision: ModuleType) -> None:
    cls = torchvision.models.VisionTransformer
    stem = [torchvision.models.vision_transformer.ConvStemConfig(8, 3, 2)]
    others = {"image_size": [8], "patch_size": [6], "num_layers": [1], "num_heads": [4], "hidden_dim": [16], "mlp_dim": [4]}
    others |= {"dropout": [0.5], "attention_dropout": [0.5], "num_classes": [3], "representation_size": [7]}
    norms = [{"eps": 0.1}, {"bias": False}, {"elementwise_affine": False}]
    others |= {"norm_layer": [*(partial(nn.LayerNorm, **norm) for norm in norms), nn.RMSNorm], "conv_stem_configs": [stem]}
    assert set(inspect.signature(cls).parameters) == set(others), "an argument of the reference has no test"
    refused = []
    for name, value in ((name, value) for name, values in others.items() for value in values):
        reference = cls(**{**SHORT, name: value})
        try:
            model = from_torchvision(reference)
        except ValueError:
            refused.append(name)
            continue
        images = torch.randn(2, 3, reference.image_size, reference.image_size)
        torch.testing.assert_close(model.eval()(images), reference.eval()(images), msg=lambda text: f"{name} {value}: {text}")
        rates = [{m.p for m in network.modules() if isinstance(m, nn.Dropout)} for network in (model, reference)]
        rates[1] |= {
            m.dropout for m in reference.modules() if isinstance(m, nn.MultiheadAttention)
        }  # torch's has no layer for it
        assert rates[0] == rates[1], name
    assert refused == ["norm_layer"] * 3 + ["conv_stem_configs"]


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_patches_that_do_not_divide_the_images_are_refused_before_training(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    for options, message in (
        ({"data": "fashion_mnist-sample", "patch_size": 5}, "patches of 5 pixels do not divide an image of 28; give"),
        ({"data": f"folder:{tmp_path}", "image_size": 100}, "patches of 16 pixels do not divide an image of 100; give"),
    ):
        with pytest.raises(UserError, match=message):
            train.build_model(train.Config(out="unused", **options))


@pytest.mark.parametrize("wrong", [{"patch_size": -4}, {"dropout": 1.5}])
def test_recipe_refuses_what_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
        train.Config(out="unused", data="fashion_mnist-sample", **wrong)


@pytest.mark.parametrize(("model", "large", "small"), [("vit_h_14", 14, 4), ("vit_b_32", 32, 4), ("small", 16, 4)])
def test_patches_are_the_preset_s_in_large_images_and_of_4_pixels_in_small_ones(
    tmp_path: Path, model: str, large: int, small: int
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    for data, side in ((f"folder:{tmp_path}", large), ("fashion_mnist", small)):
        with without_values():
            network = train.build_model(train.Config(data=data, model=model))
        assert network.patch_embedding.kernel_size == (side, side)
