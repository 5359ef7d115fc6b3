"""Confusion matrix and surest mistakes by hand. What a whole report draws is in test_tasks.py."""

import torch

from dl.mytorch.mistakes import Mistakes


def update(mistakes: Mistakes, logits: list[list[float]], labels: list[int]) -> None:
    images = torch.zeros(len(labels), 1, 4, 4)
    images[:, 0, 0, :3] = torch.tensor(logits)
    mistakes.update(images, torch.tensor(labels), torch.tensor(logits))


def test_no_matrix_is_made_of_very_many_classes() -> None:
    """Of ImageNet-21k it would take 3.2 GB for each batch."""
    mistakes = Mistakes()
    logits = torch.zeros(2, 20_000)
    logits[:, 7] = 1
    mistakes.update(torch.zeros(2, 1, 4, 4), torch.tensor([7, 19_999]), logits)
    assert mistakes.confusion is None and mistakes.kept["labels"].tolist() == [19_999, 7]
    assert list(mistakes.draw([])) == ["mistakes"]


def test_evaluation_counts_pairs_and_keeps_the_surest_mistakes() -> None:
    mistakes = Mistakes()
    mistakes.num_kept = 2
    # label, guess: (0, 0), (0, 1), (1, 2), (2, 0), (0, 1); the mistakes get surer and less sure again
    update(mistakes, [[5.0, 0, 0], [0, 1, 0], [0, 0, 9]], [0, 0, 1])
    update(mistakes, [[4.0, 0, 0], [0, 2, 0]], [2, 0])
    assert mistakes.confusion.tolist() == [[1, 2, 0], [0, 0, 1], [1, 0, 0]]
    assert mistakes.kept["labels"].tolist() == [1, 2] and mistakes.kept["guesses"].tolist() == [2, 0]
    assert mistakes.kept["images"][:, 0, 0, :3].tolist() == [[0, 0, 9], [4, 0, 0]]


def test_a_report_is_drawn_when_no_kept_mistake_is_of_the_frequent_pairs() -> None:
    mistakes = Mistakes()
    mistakes.num_kept = 1
    # six kinds of mistakes; the surest is of the rarest kind
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    logits = [[3.0 * (c == guess) for c in range(3)] for _, guess in pairs]
    for _ in range(2):
        update(mistakes, logits[:5], [label for label, _ in pairs[:5]])
    update(mistakes, [[0.0, 9, 0]], [2])
    assert set(mistakes.draw([])) == {"confusion", "mistakes"}
