"""What tests share. A model's folder calls `testing.standard_checks`, and compares with twins by `testing.assert_same_as`.

Each assertion raises `AssertionError` that says what failed. In reading order: standard.py, laws.py, twins.py,
torch_layers.py, runs.py, proofs.py (`pytest --proof`); helpers of the core's own tests are training.py, processes.py,
device.py and pickles.py; fixtures.py is what conftest.py loads.
"""

from dl.mytorch.testing.laws import (
    anonymous_layers,
    assert_batch_independent,
    assert_causal,
    assert_earlier_names_load,
    assert_gradients_flow,
    assert_overfits,
    assert_presets_build,
)
from dl.mytorch.testing.runs import (
    assert_resumes_exactly,
    assert_same_runs,
    assert_same_state,
    assert_streams_exactly,
    has_compiler,
    tiny_splits,
)
from dl.mytorch.testing.standard import Overfit, standard_checks
from dl.mytorch.testing.torch_layers import TorchBlock, UnderTheirNames, torch_block_names, torch_names
from dl.mytorch.testing.twins import assert_same_as, assert_same_function, randomize_norms

__all__ = [
    "Overfit",
    "TorchBlock",
    "UnderTheirNames",
    "anonymous_layers",
    "assert_batch_independent",
    "assert_causal",
    "assert_earlier_names_load",
    "assert_gradients_flow",
    "assert_overfits",
    "assert_presets_build",
    "assert_resumes_exactly",
    "assert_same_as",
    "assert_same_function",
    "assert_same_runs",
    "assert_same_state",
    "assert_streams_exactly",
    "has_compiler",
    "randomize_norms",
    "standard_checks",
    "tiny_splits",
    "torch_block_names",
    "torch_names",
]
