"""Swin Transformer against torchvision's and timm's, by its laws, and through its real recipe."""

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dl.modules.Transformers.Swin import train
from dl.modules.Transformers.Swin.convert import from_torchvision
from dl.modules.Transformers.Swin.model import Swin, WindowAttention, build, joined, regions, windows
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.torchvision_compat import import_torchvision

SHORT = {"patch_size": [2, 2], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4], "mlp_ratio": 2.0}


def short(torchvision: ModuleType, **options: Any) -> nn.Module:
    return torchvision.models.SwinTransformer(**{**SHORT, "stochastic_depth_prob": 0.0, "num_classes": 5, **options})


def randomized(model: nn.Module) -> nn.Module:
    """As after training: nothing is 0 or 1 any more, so that everything shows in the output."""
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"), [("swin_t", 28_288_354), ("swin_s", 49_606_258), ("swin_b", 87_768_224), ("swin_l", 196_532_476)]
)
def test_published_networks_have_the_parameters_of_their_tables(preset: str, count: int) -> None:
    with without_values():
        assert count_parameters(build(preset)) == count


def test_maps_halve_from_stage_to_stage_while_channels_double() -> None:
    with without_values():
        model = build("swin_t")
        with Probe(model, "stages.0", "stages.1", "stages.2", "stages.3") as probe:
            model(torch.zeros(1, 3, 224, 224))
    sides = [(56, 56, 96), (28, 28, 192), (14, 14, 384), (7, 7, 768)]  # figure 3
    assert [tuple(probe[f"stages.{i}"].shape[1:]) for i in range(4)] == sides


# ---- torchvision and timm ------------------------------------------------------------------------------------------


class TorchvisionTwin(nn.Module):
    """Our parameters, run through torchvision's code."""

    def __init__(self, model: Swin, reference: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.reference = [reference]  # in a list: its own parameters do not count

    def forward(self, images: Tensor) -> Tensor:
        named = {f"{theirs}.{part}": p for theirs, layer in self.layers() for part, p in layer.named_parameters()}
        for i, stage in enumerate(self.model.stages):
            blocks = [block for block in stage if hasattr(block, "attention")]
            for j, block in enumerate(blocks):
                prefix, attention = f"features.{2 * i + 1}.{j}.attn", block.attention
                parts = (attention.query, attention.key, attention.value)
                named[f"{prefix}.qkv.weight"] = torch.cat([part.weight for part in parts])
                named[f"{prefix}.qkv.bias"] = torch.cat([part.bias for part in parts])
                named[f"{prefix}.relative_position_bias_table"] = attention.relative_positions
        self.reference[0].train(self.training)
        return functional_call(self.reference[0], named, (images,))

    def layers(self) -> list[tuple[str, nn.Module]]:
        model = self.model
        found = [("features.0.0", model.patch_embedding), ("features.0.2", model.patch_norm), ("norm", model.norm)]
        found.append(("head", model.head))
        for i, stage in enumerate(model.stages):
            if i:
                found.append((f"features.{2 * i}", stage.merge))
            for j, block in enumerate(block for block in stage if hasattr(block, "attention")):
                prefix = f"features.{2 * i + 1}.{j}"
                found += [(f"{prefix}.norm1", block.norm1), (f"{prefix}.norm2", block.norm2)]
                found += [(f"{prefix}.mlp.0", block.feed_forward.fc1), (f"{prefix}.mlp.3", block.feed_forward.fc2)]
                found.append((f"{prefix}.attn.proj", block.attention.output))
        return found


@pytest.mark.parametrize(
    ("options", "height", "width", "mode"),
    [
        ({}, 32, 32, "eval"),
        ({}, 22, 38, "eval"),  # padded maps of 11 x 19 and 6 x 10
        ({"window_size": [8, 8]}, 16, 40, "eval"),  # one window along one axis
        ({"stochastic_depth_prob": 0.5}, 32, 24, "train"),  # the same seed drops the same branches
    ],
    ids=str,
)
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, options: dict[str, Any], height: int, width: int, mode: str
) -> None:
    reference = randomized(short(torchvision, **options))
    model = from_torchvision(reference)
    images = torch.randn(3, 3, height, width)
    testing.assert_same_as(model, TorchvisionTwin(model, reference), images, train=mode == "train")


@pytest.mark.parametrize("name", ["swin_t", "swin_s", "swin_b"])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)  # with the probabilities of stochastic depth


def test_networks_of_other_papers_are_refused(torchvision: ModuleType) -> None:
    with without_values():
        with pytest.raises(ValueError, match="no network of this paper: .*V2"):
            from_torchvision(torchvision.models.swin_v2_t())
        with pytest.raises(ValueError, match=r"squares; got \(4, 2\)"):
            from_torchvision(short(torchvision, window_size=[4, 2]))
        with pytest.raises(ValueError, match="with dropout is no network of this paper"):
            from_torchvision(short(torchvision, dropout=0.1))


@pytest.mark.parity
def test_network_is_timm_s() -> None:
    import_torchvision()
    timm = pytest.importorskip("timm.models.swin_transformer")
    sizes = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "patch_size": 2, "mlp_ratio": 2.0}
    theirs = timm.SwinTransformer(img_size=32, drop_path_rate=0.0, num_classes=5, **sizes)
    theirs = randomized(theirs).double().eval()
    model = Swin(dim=sizes.pop("embed_dim"), num_classes=5, **sizes).double().eval()
    names = {"patch_embedding": "patch_embed.proj", "patch_norm": "patch_embed.norm", "norm": "norm", "head": "head.fc"}
    names |= {f"stages.1.merge.{part}": f"layers.1.downsample.{part}" for part in ("norm", "reduction")}
    state = theirs.state_dict()
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        ours, other = f"stages.{i}.block{j + 1}", f"layers.{i}.blocks.{j}"
        names |= {f"{ours}.norm{n}": f"{other}.norm{n}" for n in (1, 2)}
        names |= {f"{ours}.feed_forward.fc{n}": f"{other}.mlp.fc{n}" for n in (1, 2)}
        names[f"{ours}.attention.output"] = f"{other}.attn.proj"
        names[f"{ours}.attention.relative_positions"] = f"{other}.attn.relative_position_bias_table"
        for place, part in enumerate(("query", "key", "value")):
            names[f"{ours}.attention.{part}"] = f"{other}.attn.{part}"
            for kind in ("weight", "bias"):
                state[f"{other}.attn.{part}.{kind}"] = state[f"{other}.attn.qkv.{kind}"].chunk(3)[place]
    weights = {}
    for name in model.state_dict():
        layer, _, kind = name.rpartition(".")
        weights[name] = state[names[name]] if name in names else state[f"{names[layer]}.{kind}"]
    model.load_state_dict(weights)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images), theirs(images), rtol=0, atol=1e-9)


# ---- windows -------------------------------------------------------------------------------------------------------


def test_windows_and_joined_are_inverse() -> None:
    x = torch.arange(2 * 4 * 6).view(1, 4, 6, 2)
    assert torch.equal(joined(windows(x, 2), 2, 2), x)
    assert windows(x, 2)[0, 1, :, 0].tolist() == [4, 6, 16, 18]  # rows 0 and 1, columns 2 and 3


def test_offsets_of_a_window_of_two_have_the_worked_numbers() -> None:
    index = WindowAttention(4, 1, 2, 0).index
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_a_shifted_window_of_two_hides_the_worked_numbers_of_pairs() -> None:
    mask = WindowAttention(4, 1, 2, 1).mask(4, 4, 1, 1)
    assert mask.sum((1, 2)).tolist() == [0, 8, 8, 12]
    assert regions(6, 2, 1).tolist() == [0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 8), (2, 6), (2, 2)])
def test_a_shifted_block_is_attention_over_pairs_by_brute_force(height: int, width: int) -> None:
    """Which tokens share a window is found by their places alone: no roll, no mask."""
    layer = randomized(WindowAttention(6, 2, 2, 1)).double()
    x = torch.randn(1, height, width, 6, dtype=torch.float64)
    query, key, value = (part(x)[0].unflatten(2, (2, 3)) for part in (layer.query, layer.key, layer.value))  # (Y, X, H, D)

    def place(y: int, x: int) -> tuple[int, int]:  # an axis that one window covers is not shifted
        return (y + 1) // 2 if height > 2 else 0, (x + 1) // 2 if width > 2 else 0

    places = [(row, column) for row in range(height) for column in range(width)]
    expected = torch.zeros(height, width, 2, 3, dtype=torch.float64)
    for a in places:
        near = [b for b in places if place(*a) == place(*b)]
        offsets = [(a[0] - b[0] + 1) * 3 + a[1] - b[1] + 1 for b in near]
        scores = torch.stack([(query[a] * key[b]).sum(-1) * 3**-0.5 for b in near]) + layer.relative_positions[offsets]
        expected[a] = (scores.softmax(0)[..., None] * torch.stack([value[b] for b in near])).sum(0)
    torch.testing.assert_close(layer(x)[0], layer.output(expected.flatten(2)), rtol=0, atol=1e-12)


def test_every_second_block_is_shifted_by_half_a_window() -> None:
    with without_values():
        model = build("swin_t")
    shifts = [[block.attention.shift for block in stage if hasattr(block, "attention")] for stage in model.stages]
    assert shifts == [[0, 3], [0, 3], [0, 3] * 3, [0, 3]]


def test_probability_to_be_dropped_grows_from_0_to_that_of_the_last_block() -> None:
    with without_values():
        model = build("swin_s")
    drops = [block.drop.probability for stage in model.stages for block in stage if hasattr(block, "attention")]
    assert drops == pytest.approx([0.3 * i / 23 for i in range(24)])


def test_heads_that_do_not_divide_a_stage_are_refused() -> None:
    with pytest.raises(ValueError, match="heads that divide its width; got depths .1, 1., heads .2, 3., width 8"):
        Swin(8, (1, 1), (2, 3))


# ---- the recipe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "window"), [(28, 7), (32, 4)])
def test_small_images_get_small_patches_and_windows_that_fit(size: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    about = train.image_set(train.Config())._replace(size=size)
    monkeypatch.setattr(train, "image_set", lambda config: about)
    attention = train.build_model(train.Config()).stages[0].block1.attention
    assert attention.window_size == window
    assert train.build_model(train.Config(window_size=3)).stages[0].block1.attention.window_size == 3


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8),
    prepare=randomized,
    overfit=[testing.Overfit({"stochastic_depth": 0.0}, lambda: synthetic.images(16), lr=2e-2)],
)
