"""DETR against transformers' network in float64: outputs, losses, gradients, three steps; and its weights."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Detection.DETR.convert import from_folder, from_transformers, network, renamed
from dl.modules.Detection.DETR.model import build
from dl.mytorch.config import UserError
from dl.mytorch.introspect import without_values

RAGGED = [[64, 96], [47, 70], [33, 50]]
BOXES = [[[10, 5, 50, 40], [60, 20, 96, 64], [0, 0, 7.5, 9]], [], [[2, 3, 40, 30]]]
LABELS = [[2, 0, 1], [], [2]]
NO_TIMM = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
# sizes, boxes and labels of a batch that is padded to its largest image
BATCHES: dict[str, tuple[list, list, list]] = {
    "ragged, the second image without a box": (RAGGED, BOXES, LABELS),
    "other sizes that do not divide by the stride": ([[81, 65], [70, 33]], [BOXES[2], [[1, 2, 30, 60]]], [[0], [1]]),
    "no image has a box": (RAGGED, [[], [], []], [[], [], []]),
    "without padding": ([[64, 64]] * 2, BOXES[1:], LABELS[1:]),
}


@pytest.fixture(scope="module")
def transformers(torchvision: ModuleType) -> ModuleType:
    pytest.importorskip("scipy", reason='boxes are assigned by scipy: pip install -e ".[detection]"')
    return pytest.importorskip("transformers", reason='transformers is not installed: pip install -e ".[parity]"')


@pytest.fixture
def doubles() -> Iterator[None]:
    """transformers' loss makes its class weights in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def detr_of(transformers: ModuleType, **changes: Any) -> nn.Module:
    """Return transformers' network, tiny, with all of its backbone trained and norms as after training."""
    resnet: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 2, 1, 1]}
    resnet |= {"layer_type": "basic", "out_features": ["stage4"], **changes.pop("backbone", {})}
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 6, "num_labels": 3}
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(**resnet), **NO_TIMM, **{"dropout": 0.0, **sizes, **heads, **changes}
    )
    reference = transformers.DetrForObjectDetection(config)
    for name, value in [*reference.named_parameters(), *reference.named_buffers()]:
        value.requires_grad_(isinstance(value, nn.Parameter))  # transformers freezes all of the backbone
        if value.ndim < 2:
            nn.init.uniform_(value.data, 0.5, 1.5) if "norm" in name else nn.init.normal_(value.data, std=0.3)
    return reference


def add_auxiliary_losses(reference: nn.Module) -> None:
    """With auxiliary_loss, transformers 5 reads the next block's input from the norm before the heads; the paper does not.

    So its decoder runs without, and a hook adds what the heads read after each block.
    """
    decoder, outputs = reference.model.decoder, []
    decoder.config = copy.copy(decoder.config)
    reference.config.auxiliary_loss = True
    for block in decoder.layers:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))

    def collect(module: nn.Module, inputs: Any, output: Any) -> None:
        output.intermediate_hidden_states = torch.stack([module.layernorm(x) for x in outputs])
        outputs.clear()

    decoder.register_forward_hook(collect)


def batch(sizes: list, boxes: list, labels: list) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Return the arguments of our network and those of transformers'."""
    height, width = (max(sides) for sides in zip(*sizes))
    rows = max(1, *map(len, boxes))
    images, mask = torch.zeros(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width)
    ours = torch.zeros(len(sizes), rows, 4), torch.full((len(sizes), rows), -1)
    theirs = []
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w], mask[i, :h, :w] = torch.randn(3, h, w), 1
        corners = torch.tensor(boxes[i], dtype=torch.get_default_dtype()).view(-1, 4)
        ours[0][i, : len(corners)], ours[1][i, : len(corners)] = corners, torch.tensor(labels[i], dtype=torch.int64)
        x0, y0, x1, y1 = corners.unbind(1)
        centres = torch.stack([(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h], 1)
        theirs.append({"class_labels": torch.tensor(labels[i], dtype=torch.int64), "boxes": centres})
    return (images, torch.tensor(sizes), *ours), {"pixel_values": images, "pixel_mask": mask, "labels": theirs}


@pytest.mark.parity
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.usefixtures("doubles")
def test_network_is_transformers_in_outputs_losses_gradients_and_steps(
    transformers: ModuleType, case: str, training: bool
) -> None:
    torch.manual_seed(0)
    reference = detr_of(transformers)
    model = from_transformers(reference)
    add_auxiliary_losses(reference)
    reference.train(training), model.train(training)
    arguments, theirs = batch(*BATCHES[case])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.003, momentum=0.9) for m in (model, reference)]
    for _ in range(3):
        expected = reference(**theirs)
        logits, boxes = model.predict(*arguments[:2])
        same = {"rtol": 0, "atol": 1e-9}
        torch.testing.assert_close(logits[-1], expected.logits, **same)
        torch.testing.assert_close(boxes[-1], expected.pred_boxes, **same)
        losses = model(*arguments)
        for name, weight, theirs_ in (("class", 1, "loss_ce"), ("l1", 5, "loss_bbox"), ("giou", 2, "loss_giou")):
            torch.testing.assert_close(losses[name], weight * expected.loss_dict[theirs_], **same)
        total = torch.stack(list(losses.values())).sum()
        torch.testing.assert_close(total, expected.loss, **same)
        for optimizer, loss in zip(optimizers, (total, expected.loss)):
            optimizer.zero_grad()
            loss.backward()
        gradients = renamed({name: p.grad for name, p in reference.named_parameters() if p.grad is not None})
        own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert own.keys() == gradients.keys() and len(own) == len(list(model.parameters()))
        torch.testing.assert_close(own, {name: gradients[name] for name in own}, **same)
        for optimizer in optimizers:
            optimizer.step()
    weights = renamed(reference.state_dict())
    torch.testing.assert_close(dict(model.state_dict()), {name: weights[name] for name in model.state_dict()}, **same)


@pytest.mark.parity
@pytest.mark.usefixtures("doubles")
def test_bottlenecks_of_both_forms_are_transformers(transformers: ModuleType) -> None:
    for inside in (False, True):
        changes = {"hidden_sizes": [32, 64, 128, 256], "layer_type": "bottleneck", "downsample_in_bottleneck": inside}
        reference = detr_of(transformers, backbone=changes).eval()
        (images, sizes, *_), theirs = batch(*BATCHES["without padding"])
        with torch.no_grad():
            found, expected = from_transformers(reference).eval().predict(images, sizes), reference(**theirs)
        torch.testing.assert_close(found[0][-1], expected.logits, rtol=0, atol=1e-9)


@pytest.mark.parity
def test_the_paper_s_network_takes_facebook_s_weights_by_name_and_shape(transformers: ModuleType) -> None:
    """facebook/detr-resnet-50: 91 classes, a ResNet-50 of transformers or of timm."""
    resnet = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(backbone_config=resnet, num_labels=91, **NO_TIMM)
    with torch.device("meta"):
        weights = transformers.DetrForObjectDetection(config).state_dict()
    shapes = {name: tuple(value.shape) for name, value in build_shapes().items()}
    for spelled in (weights, as_published(weights)):
        found = renamed(spelled)
        assert {name: tuple(value.shape) for name, value in found.items()} == shapes
        with without_values():
            made = network(config.to_dict(), found).state_dict()
        assert {name: tuple(value.shape) for name, value in made.items()} == shapes


def build_shapes() -> dict[str, Tensor]:
    with without_values():
        return build("detr").state_dict()


def as_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under the names of the published file: an older version's, with timm's backbone."""
    old = {}
    for name, value in weights.items():
        name = name.replace("o_proj", "out_proj").replace("mlp.fc", "fc")
        name = name.replace("model.backbone.model.", "model.backbone.conv_encoder.model.")
        name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        for i in range(4):
            name = name.replace(f"model.encoder.stages.{i}.layers.", f"model.layer{i + 1}.")
        for i in range(3):
            name = name.replace(f".layer.{i}.convolution", f".conv{i + 1}").replace(f".layer.{i}.normalization", f".bn{i + 1}")
        name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        old[name] = value
    old["model.backbone.conv_encoder.model.layer1.0.downsample.1.num_batches_tracked"] = torch.tensor(0)
    return old


@pytest.mark.parity
def test_a_folder_of_published_files_is_read(transformers: ModuleType, tmp_path: Path) -> None:
    reference = detr_of(transformers).eval()
    reference.save_pretrained(tmp_path)
    (images, sizes, *_), theirs = batch(*BATCHES["without padding"])
    with torch.no_grad():
        logits, boxes = from_folder(tmp_path).eval().predict(images, sizes)
        expected = reference(**theirs)
    torch.testing.assert_close(logits[-1], expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes[-1], expected.pred_boxes, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for change, says in (
        ({"model_type": "bert"}, "model type 'bert'"),
        ({"d_model": "x", "dilation": True}, "dilation is True"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(UserError, match=says):
            from_folder(tmp_path)


def test_networks_that_are_not_the_paper_s_are_refused() -> None:
    weights = build("tiny").state_dict()
    for config, says in (
        ({"position_embedding_type": "learned"}, "position_embedding_type is learned"),
        ({"activation_function": "gelu"}, "activation_function is gelu"),
        ({"dilation": True}, "dilation is True"),
        ({"auxiliary_loss": True}, "auxiliary_loss is True; that of the paper's network is False"),
        ({"encoder_attention_heads": 4}, "the paper's network has one"),
        ({"backbone_config": {"downsample_in_first_stage": True}}, "downsample_in_first_stage is True"),
    ):
        with pytest.raises(ValueError, match=says):
            network(config, weights)


def test_a_folder_without_a_detr_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="model.safetensors"):
        from_folder(tmp_path)
