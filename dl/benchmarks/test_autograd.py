import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dl.benchmarks import autograd
from dl.modules.CNN.LeNet.model import build
from dl.mytorch.data import ImageConfig, image_splits, synthetic
from dl.mytorch.from_scratch.autograd import cross_entropy


def test_the_network_on_arrays_has_torch_s_logits_gradients_and_weights_after_three_steps() -> None:
    model = build("modern").double()
    own, twin = autograd.NumpyLeNet(model), autograd.TorchLeNet(model)
    data = synthetic.images(6)
    batch = {"images": data["images"].double(), "labels": data["labels"]}
    logits = own(batch["images"].numpy())
    np.testing.assert_allclose(logits.data, model(batch["images"]).detach().numpy(), rtol=0, atol=1e-12)
    cross_entropy(logits, batch["labels"].numpy()).backward()
    F.cross_entropy(model(batch["images"]), batch["labels"]).backward()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(own.weights[name].grad, parameter.grad.numpy(), rtol=0, atol=1e-10)
        own.weights[name].grad = parameter.grad = None
    for rate in (0.5, 0.25, 0.125):  # which float32 has exactly
        for engine in (own, twin):
            engine.step(batch, rate)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(own.weights[name].data, parameter.detach().numpy(), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_a_pass_over_the_bundled_images_in_float64_ends_at_torch_s_error() -> None:
    """To the image: in float32 the order of sums alone moves the error by half a point."""
    model = build("modern").double()
    engines = [autograd.NumpyLeNet(model), autograd.TorchLeNet(model)]
    data = image_splits(ImageConfig("unused", "fashion_mnist-sample", batch_size=64))
    for batch, rate in autograd.batches(data, epochs=1):
        for engine in engines:
            engine.step({"images": batch["images"].double(), "labels": batch["labels"]}, rate)
    for batch in data.test.batches():
        own, twin = (engine.predict({"images": batch["images"].double()}) for engine in engines)
        np.testing.assert_array_equal(own, twin)


@pytest.mark.slow
def test_the_benchmark_records_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autograd, "image_splits", lambda config: synthetic.image_splits())
    torch.manual_seed(0)
    out = tmp_path / "results" / "autograd.json"
    autograd.main(["--seeds", "0", "1", "--epochs", "8", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["runs"].keys() == {"numpy", "torch"} and record["epochs"] == 8
    for own, twin in zip(*record["runs"].values()):
        assert own["test_error"] == pytest.approx(twin["test_error"], abs=0.11) and own["seconds_per_epoch"] > 0
