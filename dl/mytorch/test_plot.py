"""Figures hold what they are given, where it belongs, in sizes that follow from the arguments."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.mytorch import plot
from dl.mytorch.config import UserError


def read_pixels(path: Path) -> Tensor:
    """The colours of an image file (3, height, width), from 0 to 1."""
    from matplotlib.image import imread  # slow to import, which collecting tests does without

    return torch.from_numpy(imread(path))[..., :3].permute(2, 0, 1)


HISTORY = [
    {"epoch": 1, "step": 10, "lr": 0.1, "train": {"loss": 2.0, "top1_error": 0.9}, "val": {"loss": 1.5, "top1_error": 0.8}},
    {"epoch": 2, "step": 20, "lr": 0.1, "train": {"loss": 1.0, "top1_error": 0.5}, "val": {"loss": 0.5, "top1_error": 0.4}},
    {"epoch": 3, "step": 30, "lr": 0.1, "train": {"loss": 0.5, "top1_error": 0.3}, "val": {"loss": 0.7, "top1_error": 0.4}},
    {"epoch": 2, "step": 20, "test": {"loss": 0.6, "top1_error": 0.45}},
]


def test_images_are_stretched_to_0_and_1_each_by_itself() -> None:
    images = torch.stack([torch.linspace(-7, 3, 12).view(3, 2, 2), torch.linspace(100, 101, 12).view(3, 2, 2)])
    result = plot.to_unit(images)
    for image in result:
        torch.testing.assert_close(image.flatten(), torch.linspace(0, 1, 12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 5.0, -1e6])
def test_a_constant_image_is_black_not_nan(value: float) -> None:
    assert torch.equal(plot.to_unit(torch.full((2, 1, 3, 3), value)), torch.zeros(2, 1, 3, 3))


def numbered(count: int, channels: int = 1, height: int = 2, width: int = 3) -> Tensor:
    """Image i has 1 at pixel i and 0 elsewhere, so that stretching changes nothing."""
    images = torch.zeros(count, channels, height * width)
    for i in range(count):
        images[i, :, i] = 1
    return images.view(count, channels, height, width)


def test_a_grid_has_image_i_in_row_and_column_of_i_and_white_between() -> None:
    images = numbered(5, channels=3)
    canvas = plot.grid(images, columns=3, gap=2)
    assert canvas.shape == (3, 2 + 2 + 2, 3 + 2 + 3 + 2 + 3)
    rest = torch.ones_like(canvas, dtype=torch.bool)
    for i in range(5):
        top, left = (i // 3) * 4, (i % 3) * 5
        assert torch.equal(canvas[:, top : top + 2, left : left + 3], images[i])
        rest[:, top : top + 2, left : left + 3] = False
    assert canvas[rest].eq(1).all()  # the gaps and the empty sixth place


def test_a_grid_enlarges_pixels_to_squares() -> None:
    images = numbered(2)
    canvas = plot.grid(images, enlarge=4, gap=0)
    assert canvas.shape == (1, 8, 24)
    assert torch.equal(canvas[:, ::4, ::4], torch.cat(list(images), dim=-1))
    assert torch.equal(canvas[0, :4, :4], torch.ones(4, 4)) and canvas[0, :4, 4:8].sum() == 0


def test_a_grid_is_no_wider_than_its_images() -> None:
    assert plot.grid(numbered(2), columns=8, gap=1).shape == (1, 2, 7)


def test_kernels_are_in_colour_for_3_channels_and_grey_one_by_one_else() -> None:
    assert plot.kernels(torch.randn(16, 3, 8, 8)).shape == (3, 2 * 64 + 4, 8 * 64 + 7 * 4)
    assert plot.kernels(torch.randn(6, 1, 5, 5)).shape == (1, 60, 6 * 60 + 5 * 4)
    assert plot.kernels(torch.randn(4, 2, 5, 5)).shape == (1, 60, 8 * 60 + 7 * 4)  # 4 x 2 in grey
    assert plot.kernels(torch.randn(512, 512, 3, 3))[0].shape == (32 * 67 - 4, 8 * 67 - 4)  # of many, 256
    image = plot.kernels(torch.randn(16, 3, 8, 8))
    assert 0 <= image.min() and image.max() <= 1


def lines(fig: Any, chart: int) -> dict[str, list[tuple[float, float]]]:
    """Label -> points of the lines of one chart."""
    return {line.get_label(): [(float(x), float(y)) for x, y in zip(*line.get_data())] for line in fig.axes[chart].lines}


def test_curves_plot_what_the_history_holds() -> None:
    fig = plot.curves(HISTORY)
    assert [axes.get_title() for axes in fig.axes] == ["loss", "top1 error"]
    loss = lines(fig, 0)
    assert loss["train"] == [(10, 2.0), (20, 1.0), (30, 0.5)]
    assert loss["validation"] == [(10, 1.5), (20, 0.5), (30, 0.7)]
    assert loss["lowest: 0.5"] == [(20, 0.5)]
    assert {y for _, y in loss["test: 0.6"]} == {0.6}
    assert lines(fig, 1)["lowest: 0.4"] == [(20, 0.4)]  # of equals the first
    assert all(axes.get_ylim()[0] == 0 for axes in fig.axes)  # falling quantities are seen against 0


def test_curves_are_over_what_an_agent_has_made() -> None:
    made = [
        {"epoch": 1, "step": t, "environment_steps": 256 * t, "lr": 0.1, "train": {}, "val": {"loss": 1 / t}} for t in (1, 2)
    ]
    fig = plot.curves(made)
    assert lines(fig, 0)["validation"] == [(256, 1.0), (512, 0.5)]
    assert fig.axes[0].get_xlabel() == "environment steps"


def test_curves_of_negative_losses_are_inside_the_chart() -> None:
    fig = plot.curves([{"step": step, "train": {}, "val": {"loss": -float(step)}} for step in (1, 2, 3)])
    low, high = fig.axes[0].get_ylim()
    assert low <= -3 and high >= -1


@pytest.mark.parametrize("history", [[], HISTORY[:1], HISTORY[3:]], ids=["empty", "one record", "test only"])
def test_every_history_can_be_drawn(history: list) -> None:
    image = plot.to_tensor(plot.curves(history))
    charts = 2 if len(history) > 0 and "val" in history[0] else 1
    assert image.shape == (3, 340, 420 * charts)


@pytest.mark.parametrize("nothing", [math.nan, None])
def test_what_is_no_number_in_every_record_is_drawn_as_nothing(nothing: float | None) -> None:
    figure = plot.curves([{"step": 1, "val": {"r2": nothing, "loss": 1.0}}, {"step": 2, "test": {"r2": nothing}}])
    assert plot.to_tensor(figure).shape == (3, 340, 840)


def test_a_drawn_figure_is_an_image_between_0_and_1() -> None:
    fig = plot.figure(2, 1)
    fig.set_facecolor((1, 0.2, 0))
    fig.subplots().axis("off")
    image = plot.to_tensor(fig)
    assert image.shape == (3, 100, 200) and image.dtype == torch.float32
    torch.testing.assert_close(image, torch.tensor([1, 0.2, 0])[:, None, None].expand(3, 100, 200))


@pytest.mark.parametrize(("channels", "count"), [(1, 1), (3, 8), (1, 19)])
def test_image_grids_have_each_title_above_its_image(channels: int, count: int) -> None:
    fig = plot.image_grid(numbered(count, channels, height=28, width=28), [f"image {i}" for i in range(count)], columns=8)
    columns, rows = min(count, 8), math.ceil(count / 8)
    texts = {text.get_text(): text.get_position() for text in fig.axes[0].texts}
    pixels = fig.axes[0].images[0].get_array()
    step_x, step_y = 28 + 5, 28 + 10 + 5  # an image with a gap, and with room for its title
    for i in range(count):
        left, top = i % 8 * step_x, i // 8 * step_y + 10
        x, y = texts[f"image {i}"]
        assert left < x < left + 28 and top - 10 < y < top
        assert pixels[top + i // 28, left + i % 28].min() == 1  # the one white pixel of image i
        assert pixels[top : top + 28, left : left + 28].sum() == (1 if channels == 1 else 3)
    image = plot.to_tensor(fig)
    assert image.shape[0] == 3 and image.shape[2] == 130 * columns
    assert abs(image.shape[1] / image.shape[2] - (rows * step_y - 5) / (columns * step_x - 5)) < 0.02


def test_an_empty_title_leaves_its_place_white() -> None:
    fig = plot.image_grid(torch.rand(2, 1, 28, 28), ["one", ""])
    pixels = fig.axes[0].images[0].get_array()
    assert (pixels[:, 33:] == 1).all() and (pixels[10:, :28] < 1).any()


def test_heat_maps_lie_over_the_image_under_their_titles() -> None:
    maps = torch.zeros(2, 3, 3)
    maps[0, 0, 0] = 1.0
    fig = plot.heat_maps(torch.ones(1, 8, 8), maps, ["a", "b"])
    assert [text.get_text() for text in fig.axes[0].texts] == ["image", "a", "b"]
    canvas = fig.axes[0].images[0].get_array()
    first = canvas[-128:, 128 + 19 : 2 * 128 + 19].sum(-1)
    assert first[0, 0] > first[-1, -1]  # the corner that counts is brighter


@pytest.mark.parametrize("channels", [1, 3])
def test_attention_maps_lie_beside_their_image_the_mean_first(channels: int) -> None:
    images, weights = torch.rand(2, channels, 28, 28), torch.zeros(2, 3, 4, 4)
    for image in range(2):
        for head in range(3):
            weights[image, head, image, head] = 1.0 + head  # row of the image, column of the head
    fig = plot.attention_maps(images, weights, ["shoe", "bag"])
    pixels, texts = torch.as_tensor(fig.axes[0].images[0].get_array()), [text.get_text() for text in fig.axes[0].texts]
    assert texts == ["shoe", "mean", "head 1", "head 2", "head 3", "bag", "mean", "head 1", "head 2", "head 3"]

    def tile(row: int, column: int) -> Tensor:
        return pixels[row * (28 + 10 + 5) + 10 :, column * (28 + 5) :][:28, :28]  # room for titles, gaps

    for image in range(2):
        expected = plot.to_unit(images[image]).permute(1, 2, 0).expand(28, 28, 3)
        torch.testing.assert_close(tile(image, 0), expected)
        for column, brightest in enumerate([2, 0, 1, 2], start=1):  # of the mean, that of the strongest head
            patches = tile(image, column).sum(-1).unfold(0, 7, 7).unfold(1, 7, 7).mean((2, 3))  # (4, 4)
            assert patches.flatten().argmax() == 4 * image + brightest
            assert (patches > patches.min() + 0.1).sum() == (3 if column == 1 else 1)


def test_word_attention_has_a_chart_for_each_head_with_words_at_its_sides() -> None:
    weights = {name: torch.rand(2, 3) for name in ("mean", "head 1", "head 2", "head 3")}
    fig = plot.word_attention(weights, ["je", "suis"], ["i", "am", "<eos>"], across=3)
    assert [axes.get_xlabel() for axes in fig.axes] == list(weights)
    for axes, expected in zip(fig.axes, weights.values()):
        assert [label.get_text() for label in axes.get_yticklabels()] == ["je", "suis"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["i", "am", "<eos>"]
        assert axes.images[0].get_clim() == (0, 1)
        torch.testing.assert_close(torch.as_tensor(axes.images[0].get_array()), expected)
    first, second, third, fourth = (axes.get_position() for axes in fig.axes)
    assert first.x1 < second.x0 and second.x1 < third.x0 and fourth.x0 == first.x0 and fourth.y1 < first.y0


def test_a_confusion_matrix_shows_counts_shares_and_the_error() -> None:
    counts = torch.tensor([[8, 2, 0], [1, 9, 0], [0, 0, 0]])  # of the third class there is none
    fig = plot.confusion_matrix(counts, ["cat", "dog", "fox"])
    axes = fig.axes[0]
    assert axes.get_title() == "20 examples, error 15.00%"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "fox"]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (column, row): str(counts[row, column].item()) for row in range(3) for column in range(3)
    }
    shares = torch.as_tensor(axes.images[0].get_array())
    torch.testing.assert_close(shares.float(), torch.tensor([[0, 0.2, 0], [0.1, 0, 0], [0, 0, 0]]))
    assert plot.to_tensor(fig).shape == (3, 330, 330)


@pytest.mark.parametrize("counts", [torch.zeros(2, 2, dtype=torch.long), torch.eye(21).long()])
def test_any_confusion_matrix_can_be_drawn(counts: Tensor) -> None:
    image = plot.to_tensor(plot.confusion_matrix(counts, [f"class {i}" for i in range(len(counts))]))
    assert image.isfinite().all() and image.shape[0] == 3


def test_a_confusion_matrix_of_many_classes_stays_a_figure_of_moderate_size() -> None:
    figure = plot.confusion_matrix(torch.eye(1000).long(), ["class"] * 1000)
    assert figure.canvas.get_width_height() == (1680, 1680)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_image_is_read_back(channels: int, tmp_path: Path) -> None:
    image = torch.linspace(0, 1, channels * 4 * 5).view(channels, 4, 5)
    plot.save_image(image, tmp_path / "image.png")
    pixels = read_pixels(tmp_path / "image.png")
    torch.testing.assert_close(pixels, image.expand(3, 4, 5), atol=1 / 255, rtol=0)


def test_a_saved_figure_is_what_is_drawn(tmp_path: Path) -> None:
    fig = plot.curves(HISTORY)
    plot.save_figure(fig, tmp_path / "curves.png")
    pixels = read_pixels(tmp_path / "curves.png")
    assert torch.equal(pixels, plot.to_tensor(fig))


@pytest.mark.parametrize("name", ["none/a.png", "a.foo", "."])
def test_what_cannot_be_written_is_a_line(tmp_path: Path, name: str) -> None:
    figure = plot.figure(1, 1)
    for save, content in ((plot.save_figure, figure), (plot.save_image, torch.zeros(1, 2, 2))):
        with pytest.raises(UserError, match="^the figure .* cannot be written: .+$"):
            save(content, tmp_path / name)
        save(content, tmp_path / "without_ending")
        assert (tmp_path / "without_ending").read_bytes().startswith(b"\x89PNG")


def test_predictions_show_each_image_with_its_answers() -> None:
    images = [torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8), torch.zeros(3, 1, 1, dtype=torch.uint8)]
    figure = plot.predictions(images, [[("cat", 0.75), ("dog", 0.25)], [("night", 1.0)]])
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["75.0%  cat", "25.0%  dog", "100.0%  night"]
    assert [len(axes.images) for axes in figure.axes] == [1, 0, 1, 0]
    assert plot.to_tensor(figure).shape == (3, 520, 800)


def test_a_dollar_in_a_name_is_no_formula() -> None:
    name, image = "a$_$ and more than fits", torch.rand(1, 1, 8, 8)
    figures = [
        plot.image_grid(image, [f"{name}\nas {name}, so long that it is cut"]),
        plot.word_attention({"head $_$": torch.rand(1, 1)}, [name], [name]),
        plot.confusion_matrix(torch.eye(2), [name, "b"]),
        plot.scatter(torch.rand(3, 2), [name, "b", "b"]),
        plot.predictions([torch.zeros(3, 8, 8, dtype=torch.uint8)], [[(name, 1.0)]]),
    ]
    for figure in figures:
        plot.to_tensor(figure)
    assert figures[0].axes[0].texts[0].get_text() == "a$_$ and more than ...\nas a$_$ and more th..."


def test_feature_maps_show_the_channels_that_vary_most_under_the_name_of_their_layer() -> None:
    maps = torch.zeros(5, 4, 4)
    maps[1, 0, 0], maps[3, 2, 2] = 7.0, 9.0
    figure = plot.feature_maps({"stem": maps, "deep": torch.randn(3, 1, 1)}, columns=2)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["stem: 5 x 4 x 4", "deep: 3 x 1 x 1"]
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (32, 66, 3) and (shown[:, 32:34] == 1).all()  # white between them
    red = shown[..., 0]  # of these colours, high for the largest values only
    left, right = red[:, :32] > 0.9, red[:, 34:] > 0.9
    assert left[:8, :8].all() and left.sum() == 64  # channel 1, brought to 0 .. 1
    assert right[16:24, 16:24].all() and right.sum() == 64  # channel 3


def test_scatter_has_a_colour_for_each_label_and_one_thumbnail_for_each_place() -> None:
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [10.0, 0.0], [0.0, 10.0]])
    fig = plot.scatter(points, ["a", "a", "b", "c"], torch.rand(4, 1, 5, 5), mark=torch.tensor([[5.0, 5.0]]))
    (axes,) = fig.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    assert [len(part.get_offsets()) for part in axes.collections] == [2, 1, 1, 1] and len(axes.images) == 3
    assert plot.to_tensor(fig).shape == (3, 800, 900)


def test_a_legend_has_every_name_even_one_that_begins_with_an_underscore() -> None:
    legend = plot.scatter(torch.randn(4, 2), ["_x", "_x", "b", ""]).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["-", "_x", "b"]


def test_names_in_chinese_are_drawn_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    names = ["\u732b", "\u72ac"]
    plot.to_tensor(plot.confusion_matrix(torch.eye(2).long(), names))
    plot.to_tensor(plot.image_grid(torch.rand(2, 1, 4, 4), names))
    plot.to_tensor(plot.scatter(torch.randn(2, 2), names))
    plot.to_tensor(plot.word_attention({names[0]: torch.eye(2)}, names, names))
    plot.to_tensor(plot.predictions([torch.zeros(3, 2, 2, dtype=torch.uint8)], [[(name, 0.5) for name in names]]))
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
