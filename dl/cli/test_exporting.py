"""`python -m dl export`: what other programs make of the files."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl import __main__ as front
from dl.cli import catalogue, exporting
from dl.cli.exporting import torchvision_s
from dl.cli.runs import Run
from dl.cli.testing import write_run
from dl.modules.GPT.lora import adapt
from dl.mytorch.files import verify
from dl.mytorch.safetensors import read

TOKENS = torch.randint(9, (2, 9), generator=torch.Generator().manual_seed(0))


def exported(folder: Path, recipe: str, kind: str, **values: Any) -> tuple[Run, Path]:
    run, out = Run.open(write_run(folder / "run", recipe, **values)), folder / f"out-{kind}"
    assert front.main(["export", str(run.path), "--format", kind, "--out", str(out)]) == 0
    return run, out


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_state_dict_is_that_of_the_best_weights(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = exported(tmp_path, "CNN/LeNet", kind)
    weights = torch.load(out, weights_only=True) if kind == "torch" else read(out)
    own = run.model().state_dict()
    assert weights.keys() == own.keys() and all(torch.equal(weights[name], own[name]) for name in own)
    assert f"written: {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "kind", "message"),
    [
        ("CNN/LeNet", "hf", "--format hf is not there for CNN/LeNet; torch and safetensors are for every run"),
        ("CNN/LeNet", "gguf", "--format gguf is not there for CNN/LeNet"),
        ("GPT/GPT2", "onnx", "does not classify images"),
    ],
)
def test_a_format_that_is_not_for_the_network_is_one_line(
    tmp_path: Path, recipe: str, kind: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", recipe)
    assert front.main(["export", str(folder), "--format", kind]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not list(folder.glob("export*"))


def test_what_the_exporter_fails_at_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(*_: Any, **__: Any) -> None:
        print("class GraphModule", file=sys.stderr)
        raise torch.onnx.OnnxExporterError("Next steps:\n- a report") from ValueError("no function for\naten.eig")

    folder = write_run(tmp_path / "run")
    monkeypatch.setattr(torch.onnx, "export", export)
    assert front.main(["export", str(folder), "--format", "onnx"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith("cannot export the network of " + str(folder) + ": ValueError: no function for aten.eig")
    monkeypatch.setattr(exporting, "LARGEST_GRAPH", 1000)
    assert front.main(["export", str(folder), "--format", "onnx"]) == 1
    assert "are more than the 1,000 bytes of such a file" in capsys.readouterr().err
    assert not list(folder.glob("export*"))


@pytest.mark.parity
def test_a_network_that_decides_by_its_input_is_no_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")

    class Deciding(nn.Flatten):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images if images.sum() > 0 else -images)

    folder = write_run(tmp_path / "run")
    real = exporting.classifier(Run.open(folder))
    monkeypatch.setattr(exporting, "classifier", lambda _: real._replace(model=Deciding()))
    assert front.main(["export", str(folder), "--format", "onnx"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "cannot export the network of" in line and "GuardOnDataDependentSymNode" in line


@pytest.mark.parametrize(("kind", "name"), [("hf", ""), ("torch", "best.pt"), ("safetensors", "config.json")])
def test_a_run_is_not_overwritten(tmp_path: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", "GPT/GPT2")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert front.main(["export", str(folder), "--format", kind, "--out", str(folder / name)]) == 1
    assert "would overwrite files of a run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_for_transformers_has_whole_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    class Reference:
        def save_pretrained(self, folder: str) -> None:
            Path(folder, "model.safetensors").write_bytes(b"part")
            if full:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_call", lambda *_: Reference())
    folder, out = write_run(tmp_path / "run", "GPT/GPT2"), tmp_path / "out"
    assert front.main(["export", str(folder), "--format", "hf", "--out", str(out)]) == full
    found = {path.name for path in out.iterdir()}
    assert found == (set() if full else {"model.safetensors", "checksums.json", "vocabulary-tokens.json"})
    assert full or verify(out / "model.safetensors")


# ---- against the programs that read them ---------------------------------------------------------------------------------


def randomized(model: nn.Module) -> nn.Module:
    """Return a network whose every weight and statistic shows, in float64."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.3 * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + noise)
    return model.double().eval()


@torch.no_grad()
def assert_alike(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-6 * ours.abs().max()


LANGUAGE_MODELS = [
    ("GPT/GPT2", {}),
    ("GPT/GPT2", {"activation": nn.ReLU, "hidden_dim": 20}),
    ("GPT/Llama", {}),
    ("GPT/Llama", {"tied": True, "num_experts": 3}),
    ("GPT/Qwen3", {}),
    ("GPT/Qwen3", {"tied": True, "window": 4, "full_every": 2, "num_kv_heads": 2}),
    ("GPT/Qwen3", {"num_experts": 4}),
    ("GPT/DeepSeekV3", {}),
    ("GPT/DeepSeekV3", {"tied": True, "query_rank": None, "num_dense": 0, "num_shared": 2}),
    ("StateSpace/Mamba", {}),
    ("StateSpace/Mamba", {"tied": False, "biases": True, "expand": 3, "conv_width": 2, "state_dim": 3}),
]


@pytest.mark.parity
@pytest.mark.parametrize(("recipe", "sizes"), LANGUAGE_MODELS)
@torch.no_grad()
def test_transformers_reads_the_folder_and_gives_the_same_logits(tmp_path: Path, recipe: str, sizes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = randomized(catalogue.module(recipe).build("tiny", **sizes))
    reference = catalogue.module(recipe, "convert").to_transformers(model)
    reference.save_pretrained(tmp_path)
    kind = getattr(transformers, type(reference).__name__)
    read_back = kind.from_pretrained(tmp_path, dtype=torch.float64, experts_implementation="eager").eval()
    assert_alike(model(TOKENS), read_back(TOKENS).logits)
    again = catalogue.module(recipe, "convert").from_transformers(read_back.cpu()).state_dict()
    assert all(torch.equal(again[name].double(), weight) for name, weight in model.state_dict().items())


@pytest.mark.parity
@pytest.mark.parametrize("recipe", ["GPT/GPT2", "GPT/Llama", "GPT/Qwen3"])
@torch.no_grad()
def test_adapters_are_merged_for_transformers(recipe: str) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = randomized(adapt(catalogue.module(recipe).build("tiny"), rank=2))
    ours = model(TOKENS)
    assert_alike(ours, catalogue.module(recipe, "convert").to_transformers(model).eval()(TOKENS).logits)


@pytest.mark.parity
@pytest.mark.parametrize("heads", [{}, {"nsp": False}, {"nsp": False, "pooler": True, "mlm": False}])
@torch.no_grad()
def test_transformers_reads_a_bert_of_ours(tmp_path: Path, heads: dict[str, bool]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = randomized(catalogue.module("Transformers/BERT").build("tiny", **heads))
    convert = catalogue.module("Transformers/BERT", "convert")
    reference = convert.to_transformers(model)
    reference.save_pretrained(tmp_path)
    read_back = getattr(transformers, type(reference).__name__).from_pretrained(tmp_path, dtype=torch.float64).eval()
    ours = model(TOKENS, torch.zeros_like(TOKENS), torch.zeros_like(TOKENS, dtype=torch.bool))
    theirs = read_back(input_ids=TOKENS, output_hidden_states=True)
    assert_alike(ours.hidden, theirs.hidden_states[-1])
    if ours.mlm is not None:
        assert_alike(ours.mlm, theirs.prediction_logits if ours.nsp is not None else theirs.logits)


@pytest.mark.parity
@torch.no_grad()
def test_transformers_reads_a_clip_of_ours(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    module, convert = (catalogue.module("Multimodal/CLIP", file) for file in ("model", "convert"))
    model = randomized(module.build("tiny"))
    convert.to_transformers(model).save_pretrained(tmp_path)
    read_back = transformers.CLIPModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    images, tokens = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([[3, 4, 257, 0], [5, 6, 7, 257]])
    theirs = read_back(input_ids=tokens, pixel_values=images).logits_per_image
    assert_alike(model(images, tokens).logits(), theirs)
    for other in (module.build("tiny", siglip=True), module.build("tiny_cnn")):
        with pytest.raises(ValueError, match="is not in the class"):
            convert.to_transformers(other)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("frozen", [False, True])
@torch.no_grad()
def test_transformers_reads_a_detr_of_ours(tmp_path: Path, kind: str, frozen: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    module, convert = (catalogue.module("Detection/DETR", file) for file in ("model", "convert"))
    backbone = {"preset": "resnet18", "kind": kind, "depths": (1, 2, 1), "width": 8, "stages": (3,), "frozen": frozen}
    model = randomized(module.build("tiny", backbone=backbone))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    convert.to_transformers(model).save_pretrained(tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    read_back = transformers.DetrForObjectDetection.from_pretrained(tmp_path, dtype=torch.float64).eval()
    images, sizes = torch.randn(2, 3, 64, 96, dtype=torch.float64), torch.tensor([[64, 96]] * 2)
    logits, boxes = model.predict(images, sizes)
    theirs = read_back(pixel_values=images)
    assert_alike(logits[-1], theirs.logits)
    assert_alike(boxes[-1], theirs.pred_boxes)
    with pytest.raises(ValueError, match="has no backbone.stem.conv.weight of the shape"):
        convert.to_transformers(module.build("tiny"))


@pytest.mark.parity
@pytest.mark.parametrize(
    "sizes", [{}, {"num_classes": 3, "head_dim": 4, "widths": (8, 16, 16), "attention": (0, 2), "depth": 2}]
)
@torch.no_grad()
def test_diffusers_reads_a_u_net_of_ours(tmp_path: Path, torchvision: Any, sizes: dict[str, Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    module, convert = (catalogue.module("Diffusion/DDPM", file) for file in ("model", "convert"))
    model = randomized(module.build("tiny", **sizes))
    convert.to_diffusers(model).save_pretrained(tmp_path)
    read_back = diffusers.UNet2DModel.from_pretrained(tmp_path, torch_dtype=torch.float64).eval()
    images, times = torch.randn(2, 1, 8, 12, dtype=torch.float64), torch.tensor([3, 999])
    labels = (torch.tensor([0, 3]),) if sizes else ()
    assert_alike(model(images, times, *labels), read_back(images, times, *labels).sample)
    with pytest.raises(ValueError, match="squares of 2 x 2 pixels"):
        convert.to_diffusers(module.build("tiny", patch=2))


@pytest.mark.parity
@torch.no_grad()
def test_torchvision_s_fcos_has_the_same_detections(torchvision: Any) -> None:
    torch.manual_seed(0)
    module, convert = (catalogue.module("Detection/FCOS", file) for file in ("model", "convert"))
    model = module.build("fcos", num_classes=5).eval()
    for weight in model.backbone.buffers():
        weight.add_(0.1 * torch.rand_like(weight))
    reference = convert.to_torchvision(model).eval()
    images = torch.randn(1, 3, 64, 96)
    maps, theirs = model.pyramid(model.backbone(images)), list(reference.backbone(images).values())
    heads, their_heads = model.heads(maps), reference.head(theirs)
    for ours, name in zip(heads, ("cls_logits", "bbox_regression", "bbox_ctrness")):
        their = their_heads[name]
        assert (ours - their.view_as(ours)).abs().max() <= 1e-5 * ours.abs().max()
    with pytest.raises(ValueError, match='the grid "paper"'):
        convert.to_torchvision(module.build("tiny"))


IMAGE_MODELS = [
    ("CNN/ResNet", "resnet18", {"num_classes": 5}),
    ("CNN/ResNet", "resnet50", {"num_classes": 5}),
    ("Transformers/ViT", "tiny", {}),
    ("Transformers/Swin", "tiny", {}),
]


@pytest.mark.parity
@pytest.mark.parametrize(("recipe", "preset", "sizes"), IMAGE_MODELS)
@torch.no_grad()
def test_torchvision_s_network_has_the_same_logits(torchvision: Any, recipe: str, preset: str, sizes: dict[str, int]) -> None:
    torch.manual_seed(0)
    module = catalogue.module(recipe)
    model = randomized(module.build(preset, **sizes))
    shape = module.example(preset)[0].shape
    images = torch.randn(2, *shape[1:], dtype=torch.float64)
    assert_alike(model(images), catalogue.module(recipe, "convert").to_torchvision(model).eval()(images))


PUBLISHED = [
    *(("CNN/GoogLeNet", "googlenet"), ("CNN/WideResNet", "wide_resnet50_2"), ("CNN/ResNeXt", "resnext50_32x4d")),
    *(("CNN/DenseNet", "densenet121"), ("CNN/SqueezeNet", "squeezenet1_1"), ("CNN/MobileNetV2", "mobilenet_v2")),
    *(("CNN/EfficientNet", "efficientnet_b0"), ("CNN/ConvNeXt", "convnext_tiny")),
]


@pytest.mark.parity
@pytest.mark.parametrize(("recipe", "preset"), PUBLISHED)
@torch.no_grad()
def test_published_presets_are_torchvision_s_networks(torchvision: Any, recipe: str, preset: str) -> None:
    torch.manual_seed(0)
    model = catalogue.module(recipe).build(preset, num_classes=5).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    reference = torchvision_s(catalogue.module(recipe, "convert").from_torchvision, preset, model).eval()
    images = torch.randn(2, 3, 128, 128, dtype=torch.float64)
    assert_alike(model.double()(images), reference.double()(images))


def test_a_preset_that_torchvision_does_not_have_is_one_line(
    tmp_path: Path, torchvision: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", "CNN/MobileNetV2")
    assert front.main(["export", str(folder), "--format", "hf"]) == 1
    assert "has no copy there: torchvision has no tiny" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.parametrize("sizes", [{"stem": "small"}, {"shortcut": "A"}, {"se_reduction": 4}, {"depths": (1, 1)}])
def test_a_resnet_that_torchvision_has_no_class_for_is_refused(torchvision: Any, sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        catalogue.module("CNN/ResNet", "convert").to_torchvision(catalogue.module("CNN/ResNet").build("resnet18", **sizes))


@pytest.mark.parity
@pytest.mark.parametrize("recipe", ["CNN/ResNet", "Transformers/ViT", "Transformers/Swin"])
@torch.no_grad()
def test_onnxruntime_gives_the_same_logits_for_any_number_of_images(tmp_path: Path, recipe: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    run, out = exported(tmp_path, recipe, "onnx")
    session = runtime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    assert len(json.loads(session.get_modelmeta().custom_metadata_map["classes"])) == 10
    shape = session.get_inputs()[0].shape
    for count in (1, 3):
        images = torch.randn(count, *shape[1:])
        (theirs,) = session.run(None, {"images": images.numpy()})
        ours = run.model()(images)
        assert (ours - torch.from_numpy(theirs)).abs().max() <= 1e-4 * ours.abs().max().clamp(min=1)


@pytest.mark.parity
def test_a_file_for_llama_cpp_is_complete_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf = pytest.importorskip("gguf")
    run, out = exported(tmp_path, "GPT/Llama", "gguf")
    assert verify(out) and {path.name for path in tmp_path.iterdir()} == {"run", out.name, "checksums.json"}
    weights = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in gguf.GGUFReader(out).tensors}
    own = run.model().state_dict()
    assert len(weights) == len(own) and torch.equal(weights["token_embd.weight"], own["token_embedding.weight"])
    assert front.main(["export", str(run.path), "--format", "gguf", "--out", str(tmp_path)]) == 1
    assert f"cannot write {tmp_path}" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.parametrize("recipe", ["GPT/Llama", "GPT/Qwen3"])
@pytest.mark.parametrize("pieces", [False, True])
@torch.no_grad()
def test_llama_cpp_continues_a_text_by_the_same_tokens(tmp_path: Path, recipe: str, pieces: bool) -> None:
    pytest.importorskip("gguf")
    llama_cpp = pytest.importorskip("llama_cpp")
    from dl.modules.GPT.BPE.tokenizer import BPE
    from dl.mytorch.data import Vocabulary

    text = "to be or not to be, that is the question\n"
    vocabulary = BPE.train(text * 9, 270) if pieces else Vocabulary(sorted(set(text)))
    torch.manual_seed(3)
    sizes = {"dim": 64, "num_heads": 4, "num_kv_heads": 2, "max_length": 128, "hidden_dim": 96}
    sizes |= {"head_dim": 32} if recipe == "GPT/Qwen3" else {}
    model = catalogue.module(recipe).build("tiny", vocab_size=len(vocabulary), **sizes).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    catalogue.module(recipe, "convert").to_gguf(model, vocabulary, tmp_path / "model.gguf")
    theirs = llama_cpp.Llama(
        str(tmp_path / "model.gguf"),
        n_ctx=128,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        type_k=0,
        type_v=0,
        verbose=False,
    )
    ids = vocabulary.encode(text[:12])
    assert theirs.tokenize(text[:12].encode(), add_bos=False) == ids
    for _ in range(100):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    theirs.reset()
    theirs.eval(ids)
    logits = torch.from_numpy(theirs.scores[: len(ids)].copy())
    theirs.close()
    ours = model(torch.tensor([ids]))[0]
    assert (ours - logits).abs().max() <= 1e-4 * ours.abs().max()
    assert logits.argmax(-1)[11 : len(ids) - 1].tolist() == ids[12:]
