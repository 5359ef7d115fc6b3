"""What `dl.mytorch.text.fused` computes is what the model computes; one that it does not know, or that was changed, stays."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.GPT.DeepSeekV3 import model as deepseek
from dl.modules.GPT.GPT2 import model as gpt2
from dl.modules.GPT.Llama import model as llama
from dl.modules.GPT.lora import adapt
from dl.modules.GPT.Qwen3 import model as qwen3
from dl.modules.GPT.testing import LONG, PADDING, TOKENS, randomized
from dl.mytorch import Probe
from dl.mytorch.text.fused import Fused, fused
from dl.mytorch.text.generation import generate

KNOWN = {
    "gpt2": (gpt2.build, {}),
    "gpt2 without biases": (gpt2.build, {"bias": False, "activation": nn.GELU}),
    "llama, groups": (llama.build, {"num_heads": 4, "num_kv_heads": 2}),
    "llama, tied": (llama.build, {"tied": True}),
    "qwen3": (qwen3.build, {}),
}


def model_of(build: Any, **options: Any) -> nn.Module:
    return randomized(build("tiny", max_length=32, **options)).double().eval()


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("padding", [None, PADDING], ids=["", "padded"])
@torch.inference_mode()
def test_each_token_has_the_model_s_logits(name: str, padding: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    build, options = KNOWN[name]
    model = model_of(build, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step, caches = fused(model, 9), (model.new_cache(), model.new_cache())
    assert isinstance(step, Fused)
    for start, end in ((0, 4), *((i, i + 1) for i in range(4, TOKENS.shape[1]))):
        mask = None if padding is None else padding[:, :end]
        if start == 5:  # none of the steps asks the model
            monkeypatch.setattr(model, "forward", None)
        found = step(TOKENS[:, start:end], mask, caches[0])
        with monkeypatch.context() as undone:
            undone.undo()
            expected = type(model).forward(model, TOKENS[:, start:end], mask, caches[1])[:, -1]
        real = slice(None) if mask is None else ~mask[:, -1]
        torch.testing.assert_close(found[real], expected[real], rtol=1e-12, atol=1e-12)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


def side_by_side(self: nn.Module, x: Tensor, *inputs: Any) -> Tensor:
    """Attention and feed-forward of the same numbers."""
    return x + self.attention(self.norm1(x), *inputs) + self.feed_forward(self.norm2(x))


def near(attend: Any) -> Any:
    """Attention that sees no more than the last four tokens."""

    def forward(self: nn.Module, x: Tensor, padding_mask: Tensor | None = None, cache: Any = None) -> Tensor:
        length = (cache.length if cache else 0) + x.shape[1]
        distance = torch.arange(length)[-x.shape[1] :, None] - torch.arange(length)
        return attend(self, x, (distance >= 4).expand(len(x), -1, -1), cache)

    return forward


@pytest.mark.parametrize("build", [gpt2.build, llama.build])
@pytest.mark.parametrize("part", ["block", "attention"])
def test_who_changes_a_block_gets_what_the_block_computes(build: Any, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the change shows in long texts alone."""
    model = model_of(build)
    kind = type(model.blocks[0]) if part == "block" else type(model.blocks[0].attention)
    monkeypatch.setattr(kind, "forward", side_by_side if part == "block" else near(kind.forward))
    prompt = LONG[:, :3] if part == "block" else LONG[:, :7]
    written = [generate(model, prompt, 12, temperature=0, cached=cached) for cached in (True, False)]
    assert torch.equal(*written)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it compiles
def test_other_layers_and_layers_that_are_looked_at_are_left_to_the_model() -> None:
    others = [
        deepseek.build("tiny"),
        llama.build("tiny", num_experts=2),
        qwen3.build("tiny", window=4),
        qwen3.build("tiny", sinks=True),
    ]
    adapted = gpt2.build("tiny")
    adapt(adapted, 2)
    assert not any(isinstance(fused(model, 8), Fused) for model in (*others, adapted))
    model = gpt2.build("tiny")
    assert isinstance(fused(model, 8), Fused)
    with Probe(model, "blocks.0.attention") as probe:
        assert not isinstance(fused(model, 8), Fused)
        generate(model, TOKENS[:1], 3)
        assert probe["blocks.0.attention"].shape[1] == 1  # of the last token
    model.compile()
    assert not isinstance(fused(model, 8), Fused)


@pytest.mark.parametrize("build", [gpt2.build, llama.build, qwen3.build, deepseek.build])
def test_logits_after_the_last_token_are_the_last_of_all(build: Any) -> None:
    model = model_of(build)
    torch.testing.assert_close(model(TOKENS, last_only=True), model(TOKENS)[:, -1:], rtol=1e-12, atol=1e-12)
