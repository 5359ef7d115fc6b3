"""Mixtures of experts against their formulas written out by hand, and against transformers' Mixtral (in the parity tier)."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.GPT.Llama import train
from dl.modules.GPT.Llama.convert import from_transformers
from dl.modules.GPT.Llama.model import Llama, MixtureOfExperts, build
from dl.modules.GPT.Llama.testing import SIZES
from dl.modules.GPT.task import BalancedTextModeling, TextModeling
from dl.modules.GPT.testing import BATCH, PADDING, TOKENS, AsOurs, Unpadded, randomized
from dl.mytorch import testing
from dl.mytorch.command_line import parse
from dl.mytorch.data import Vocabulary

pytestmark = pytest.mark.usefixtures("exact")
VOCABULARY = Vocabulary(map(str, range(11)))


class ByHand(nn.Module):
    """The definition, token by token, on the weights of a layer."""

    def __init__(self, layer: MixtureOfExperts) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.stack([self.token(token) for token in row]) for row in x])

    def token(self, token: Tensor) -> Tensor:
        count = self.layer.experts_per_token
        probabilities = (self.layer.router.weight @ token).exp()
        probabilities = probabilities / probabilities.sum()
        best = sorted(range(len(probabilities)), key=lambda i: -probabilities[i].item())[:count]
        total = sum(probabilities[i] for i in best) if count > 1 else 1.0
        return torch.stack([probabilities[i] / total * self.layer.experts[i](token) for i in best]).sum(0)


def tiny(**overrides: Any) -> Llama:
    return randomized(build("tiny", **{"num_experts": 3, **overrides}))


# ---- layer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_layer_is_its_definition(count: int) -> None:
    layer = randomized(MixtureOfExperts(6, 5, num_experts=3, experts_per_token=count))
    testing.assert_same_as(layer, ByHand(layer), torch.randn(2, 7, 6))


def test_balance_is_the_paper_s_and_least_when_all_are_used_alike() -> None:
    layer = MixtureOfExperts(2, 3, num_experts=2, experts_per_token=1)
    layer.router.weight.data = torch.tensor([[0.0, 0.0], [9.0, 0.0]]).log1p()  # by the first number: odds 10 to 1
    layer(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]]))
    # Expert 1 has 3 of 4 tokens, and a mean probability of (3 * 10/11 + 1/11) / 4 = 31/44.
    assert layer.balance.item() == pytest.approx(2 * (1 / 4 * 13 / 44 + 3 / 4 * 31 / 44))
    layer(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))
    assert layer.balance.item() == pytest.approx(1.0)


def test_the_balance_loss_spreads_tokens_over_experts() -> None:
    layer, x = MixtureOfExperts(6, 5, num_experts=4, experts_per_token=1), torch.randn(1, 200, 6) + 1
    layer.router.weight.data[0] += 1  # the favourite of most
    optimizer = torch.optim.SGD(layer.router.parameters(), lr=1.0)
    shares = []
    for _ in range(50):
        layer(x)
        shares.append(torch.bincount(layer.router(x).argmax(-1)[0]).max().item() / 200)
        optimizer.zero_grad()
        layer.balance.backward()
        optimizer.step()
    assert shares[0] > 0.8 and shares[-1] < 0.4


def test_impossible_numbers_of_experts_are_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="a token passes through 1 to 3 experts; got experts_per_token 4"):
        tiny(experts_per_token=4)
    for flags in ("--num-experts -1", "--experts-per-token 3 --num-experts 2", "--aux-loss-weight -1"):
        with pytest.raises(SystemExit):
            parse(train.Config, flags.split())
        assert f"{flags.split()[0]} has to be" in capsys.readouterr().err


# ---- network -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_experts_of_a_token_depend_on_no_later_ones_no_other_rows_and_no_cache() -> None:
    model = tiny().eval()
    whole = model(TOKENS, PADDING)
    assert (model(TOKENS[1:2, :7], PADDING[1:2, :7]) - whole[1:2, :7])[:, 3:].abs().max() <= 1e-9
    cache, parts = model.new_cache(), []
    for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
        parts.append(model(TOKENS[:, start:end], PADDING[:, :end], cache))
    assert (torch.cat(parts, dim=1) - whole)[~PADDING].abs().max() <= 1e-9


@pytest.mark.parametrize("count", [1, 2])
def test_routers_and_experts_are_trained(count: int) -> None:
    task = BalancedTextModeling(VOCABULARY, weight=0.01)
    many = dict(zip(("tokens", "targets"), torch.randint(200, (2, 32, 8))))  # so many tokens that every expert gets some
    testing.assert_gradients_flow(build("tiny", vocab_size=200, num_experts=3, experts_per_token=count), many, task)
    testing.assert_overfits(build("tiny", num_experts=3, experts_per_token=count, dim=32), BATCH, TextModeling(VOCABULARY))


def test_balance_counts_in_training_only() -> None:
    model, plain, task = tiny(), TextModeling(VOCABULARY), BalancedTextModeling(VOCABULARY, weight=0.5)
    loss = plain.step(model, BATCH).loss
    balances = [block.feed_forward.balance for block in model.blocks]
    assert task.step(model, BATCH).loss.item() == pytest.approx((loss + 0.5 * sum(balances)).item())
    assert torch.equal(task.eval_step(model, BATCH).loss, plain.eval_step(model, BATCH).loss)


# ---- transformers --------------------------------------------------------------------------------------------------


def their_names(copy: nn.Module) -> dict[str, Tensor]:
    """Our parameters by the names of Mixtral, which keeps all experts in one tensor, ours one by one."""
    own = dict(copy.named_parameters())
    names = {"model.embed_tokens.weight": own["token_embedding.weight"], "model.norm.weight": own["norm.weight"]}
    names["lm_head.weight"] = own["output.weight"]
    for i, block in enumerate(copy.blocks):
        theirs, our = f"model.layers.{i}", f"blocks.{i}"
        for part in ("query", "key", "value", "output"):
            names[f"{theirs}.self_attn.{part[0]}_proj.weight"] = own[f"{our}.attention.{part}.weight"]
        names[f"{theirs}.input_layernorm.weight"] = own[f"{our}.norm1.weight"]
        names[f"{theirs}.post_attention_layernorm.weight"] = own[f"{our}.norm2.weight"]
        names[f"{theirs}.mlp.gate.weight"] = own[f"{our}.feed_forward.router.weight"]
        experts = block.feed_forward.experts
        gates = [torch.cat([expert.gate.weight, expert.up.weight]) for expert in experts]
        names[f"{theirs}.mlp.experts.gate_up_proj"] = torch.stack(gates)
        names[f"{theirs}.mlp.experts.down_proj"] = torch.stack([expert.down.weight for expert in experts])
    return {f"reference.{name}": tensor for name, tensor in names.items()}


@pytest.fixture
def mixtral(transformers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With norms, angles and routers in the precision of the model, as `transformers` has Llama's."""
    from transformers.models.llama import modeling_llama as llama
    from transformers.models.mixtral import modeling_mixtral as theirs

    def router(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = x.reshape(-1, self.hidden_dim) @ self.weight.T
        values, indices = logits.softmax(-1).topk(self.top_k, dim=-1)
        return logits, values / values.sum(-1, keepdim=True), indices

    def rotary(self: nn.Module, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        self.config.head_dim = self.config.hidden_size // self.config.num_attention_heads
        return llama.LlamaRotaryEmbedding.forward(self, x, position_ids)

    monkeypatch.setattr(theirs.MixtralRMSNorm, "forward", llama.LlamaRMSNorm.forward)
    monkeypatch.setattr(theirs.MixtralRotaryEmbedding, "forward", rotary)
    monkeypatch.setattr(theirs.MixtralTopKRouter, "forward", router)
    return transformers


MIXTRAL = {
    **SIZES,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "attn_implementation": "sdpa",
    "experts_implementation": "eager",
}


@pytest.mark.parity
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("changes", [{}, {"num_local_experts": 3, "num_experts_per_tok": 3}, {"num_hidden_layers": 1}])
def test_network_is_mixtral_in_outputs_gradients_and_steps(mixtral: ModuleType, changes: dict[str, Any], train: bool) -> None:
    reference = randomized(mixtral.MixtralForCausalLM(mixtral.MixtralConfig(**{**MIXTRAL, **changes}))).double().train(train)
    twin = testing.UnderTheirNames(AsOurs(reference), from_transformers(reference), their_names)
    testing.assert_same_as(Unpadded(from_transformers(reference)), Unpadded(twin), TOKENS, PADDING, train=train)


@pytest.mark.parity
def test_balance_is_that_of_mixtral_for_each_of_the_experts_of_a_token(mixtral: ModuleType) -> None:
    config = mixtral.MixtralConfig(**{**MIXTRAL, "num_hidden_layers": 1}, output_router_logits=True)
    reference = randomized(mixtral.MixtralForCausalLM(config)).double()
    model = from_transformers(reference)
    model(TOKENS)
    theirs = reference(input_ids=TOKENS).aux_loss.item()
    assert model.blocks[0].feed_forward.balance.item() == pytest.approx(theirs / 2, abs=1e-6)  # theirs in float32


@pytest.mark.parity
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 4}, "attention to the last 4 positions"),
        ({"router_jitter_noise": 0.1}, "routers with noise"),
        ({"num_experts_per_tok": 1}, "one expert a token"),
    ],
)
def test_other_mixtures_are_refused(mixtral: ModuleType, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers(mixtral.MixtralForCausalLM(mixtral.MixtralConfig(**{**MIXTRAL, **changes})))
