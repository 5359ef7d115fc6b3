"""A device without float64 (MPS), simulated on the CPU, for everything that computes in float64."""

import pytest
import torch

from dl.mytorch.float64 import float64_device, with_float64
from dl.mytorch.testing.device import device_without_float64


def test_the_simulated_device_refuses_float64_and_what_is_elsewhere() -> None:
    with device_without_float64() as device:
        x = torch.tensor([1.0, 2.0]).to(device)
        assert x.device == device and (2 * x).sum().item() == 6 and x[x > 1].tolist() == [2]
        for refused in (x.double, lambda: x.sum(dtype=torch.float64), lambda: torch.zeros(1).double().to(device)):
            with pytest.raises(TypeError, match="no float64"):
                refused()
        with pytest.raises(RuntimeError, match="on the CPU and on the device"):
            _ = x + torch.ones(2)


def test_float64_goes_to_the_cpu_only_where_the_device_has_none() -> None:
    assert float64_device(torch.device("mps")).type == "cpu"
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    here = torch.zeros(1)
    assert with_float64(here) is here
    with device_without_float64() as device:
        x = torch.tensor([0.1]).to(device)
        assert with_float64(x).double().tolist() == [torch.tensor(0.1).item()] and with_float64(x).dtype == torch.float32
