"""TextCNN window by window, sentence by sentence; the bound on its output; the recipe."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from dl.modules.RNN.TextCNN import train
from dl.modules.RNN.TextCNN.data import Words, word_splits
from dl.modules.RNN.TextCNN.model import PRESETS, TextCNN, build
from dl.mytorch import testing
from dl.mytorch.data import Splits
from dl.mytorch.data.text.sst2 import Review, review_splits
from dl.mytorch.introspect import count_parameters
from dl.mytorch.large.sharding import shard
from dl.mytorch.optim import sgd
from dl.mytorch.text.tasks import SentenceClassification
from dl.mytorch.text.testing import LENGTHS, PAD, sources


class WindowTwin(nn.Module):
    """Each window of each sentence by itself: its words in a row, times the kernel laid out as a matrix."""

    def __init__(self, model: TextCNN) -> None:
        super().__init__()
        self.widths = [layer.kernel_size[0] for layer in model.convolutions]
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        embedding, *kernels, output, bias = self.weights
        rows = []
        for words, padding in zip(tokens, mask):
            features = []
            for i, width in enumerate(self.widths):
                around = embedding.new_zeros(width - 1, embedding.shape[1])
                x = torch.cat([around, embedding[words[~padding]], around])
                kernel = kernels[2 * i].transpose(1, 2).flatten(1)  # (maps, width * dim)
                values = [kernel @ x[j : j + width].flatten() + kernels[2 * i + 1] for j in range(len(x) - width + 1)]
                features.append(torch.stack(values).clamp(min=0).amax(0))
            rows.append(output @ torch.cat(features) + bias)
        return torch.stack(rows)


def example() -> tuple[Tensor, Tensor]:
    tokens = sources()
    return tokens, tokens == PAD


def test_network_is_its_windows_in_outputs_gradients_and_steps() -> None:
    model = build("tiny")
    testing.assert_same_as(model, WindowTwin(model), *example(), tolerance=1e-10)


def test_a_sentence_has_the_same_logits_in_every_batch() -> None:
    model, (tokens, mask) = build("tiny").eval(), example()
    model.convolutions[0].bias.data.fill_(1.0)  # windows of padding alone would be seen
    together = model(torch.where(mask, 7, tokens), mask)
    for i, length in enumerate(LENGTHS):
        torch.testing.assert_close(together[i : i + 1], model(tokens[i : i + 1, :length]), rtol=0, atol=1e-6)
    assert model(tokens[:, :1]).shape == (3, 2)  # shorter than a window


def test_paper_s_network_has_360_902_parameters_beside_its_word_vectors() -> None:
    assert count_parameters(build("rand")) == 20_000 * 300 + 100 * (300 * (3 + 4 + 5) + 3) + 2 * 300 + 2
    assert count_parameters(build("rand")) - 20_000 * 300 == 360_902


@pytest.mark.parametrize("size", [(2, 3), (4, 9)])
@pytest.mark.parametrize("preset", PRESETS)
def test_logits_have_one_row_per_sentence(preset: str, size: tuple[int, int]) -> None:
    assert build(preset, num_classes=5)(torch.randint(16, size)).shape == (size[0], 5)


def test_order_counts_and_dropout_acts_on_the_features_alone() -> None:
    model, (tokens, _) = build("tiny").eval(), example()
    assert not torch.allclose(model(tokens[:1]), model(tokens[:1].flip(1)))
    dropped = build("tiny", dropout=1.0)(tokens)
    assert torch.equal(dropped, dropped[:1].expand(3, 2))  # only the bias is left


def test_word_vectors_start_uniform_within_0_25() -> None:
    assert 0.249 < build("small").embedding.weight.abs().max() <= 0.25


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_rows_of_the_output_stay_within_their_norm() -> None:
    model, (tokens, mask) = build("tiny"), example()
    model.output.weight.data = torch.tensor([[3.0, 4.0] + [0.0] * 8, [0.1] + [0.0] * 9])
    optimizer = train.bounded(sgd(1e-9), 2.0)(model)
    model(tokens, mask).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.output.weight.norm(dim=1), torch.tensor([2.0, 0.1]))
    torch.testing.assert_close(model.output.weight[0, :2], torch.tensor([1.2, 1.6]))
    assert train.bounded(sgd, 0.0) is sgd


def test_rows_of_a_sharded_output_stay_within_their_norm() -> None:
    model, (tokens, mask) = build("tiny"), example()
    model.output.weight.data.fill_(3.0)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        shard(model, init_device_mesh("cpu", (1,)))
        optimizer = train.bounded(sgd(1e-9), 2.0)(model)
        model(tokens, mask).sum().backward()
        optimizer.step()
        torch.testing.assert_close(model.output.weight.full_tensor().norm(dim=1), torch.full((2,), 2.0))
    finally:
        distributed.destroy_process_group()


def made(count: int) -> list[Review]:
    """Sentences of 1 to 9 words."""
    chance = torch.Generator().manual_seed(count)
    labels = torch.randint(2, (count,), generator=chance).tolist()
    words = torch.randint(1, 9, (count,), generator=chance).tolist()
    return [Review(f"{'good' if label else 'bad'} {'film ' * n}".strip(), label) for label, n in zip(labels, words)]


def splits() -> Splits:
    parts = (made(40), made(9), made(7))
    return review_splits(train.Config(batch_size=8), parts, Words.of(parts[0], 1), 20)


def seen_padding(model: TextCNN) -> TextCNN:
    """Windows of padding alone would be seen."""
    model.convolutions[0].bias.data.fill_(1.0)
    return model


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(model="tiny", epochs=1, batch_size=8),
    lambda: {"tokens": example()[0], "labels": torch.tensor([1, 0, 1])},
    splits=lambda config: splits(),
    task=SentenceClassification,
    variants=[{"maps": 50}],  # of so few sentences, each map of a narrower one
    prepare=seen_padding,
    inputs=example,
    overfit=[testing.Overfit(lr=3e-2)],
)


def test_recipe_learns(tmp_path: Path, no_figures: None) -> None:
    history = train.main(train.Config(out=str(tmp_path), model="tiny", epochs=6, batch_size=8, lr=5e-2), splits())
    assert history.test["top1_error"] == 0 and history[0]["val"].keys() == {"loss", "top1_error"}


def test_words_are_those_of_the_training_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dl.mytorch.data.sources.DATA", tmp_path)
    (tmp_path / "sst2").mkdir()
    for name in ("train", "dev"):
        lines = "".join(f"{text} {name}\t{label}\n" for text, label in made(20))
        (tmp_path / "sst2" / f"{name}.tsv").write_text("sentence\tlabel\n" + lines, encoding="utf-8")
    data = word_splits(train.Config(), length=3, min_count=2)
    assert set(data.vocabularies["tokens"].tokens) == {"<pad>", "<unk>", "good", "bad", "film", "train"}
    (batch,) = data.test.batches()
    assert batch["tokens"].shape == (20, 3) and (batch["tokens"] == 1).sum() == sum(len(t.split()) == 2 for t, _ in made(20))


def test_recipe_refuses_impossible_flags() -> None:
    for name, value in {"length": 0, "min_count": 0, "max_norm": -1.0}.items():
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} has to be"):
            train.Config(**{name: value})


def test_own_sentences_have_as_many_classes_as_labels_in_training_and_when_the_run_is_opened(tmp_path: Path) -> None:
    rows = [f"{'Red, blue. green'.split()[i % 3]} thing {i}\t{'xyz'[i % 3]}" for i in range(30)]
    (tmp_path / "own.tsv").write_text("\n".join(rows), encoding="utf-8")
    config = train.Config(
        out=str(tmp_path / "run"), data=f"labelled:{tmp_path / 'own.tsv'}", model="tiny", epochs=1, plots=False
    )
    assert train.main(config).test is not None
    data = word_splits(config, config.length, config.min_count)
    assert data.names == ("x", "y", "z") and "," in data.vocabularies["tokens"].tokens  # cut off "Red,", in lower case
    assert train.build_model(config, data.vocabularies).output.out_features == 3
    assert train.build_model(train.Config(out=str(tmp_path)), data.vocabularies).output.out_features == 2
