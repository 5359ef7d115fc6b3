"""What sentences say, by a run on own sentences."""

from pathlib import Path

import pytest

from dl.cli.testing import write_run
from dl.modules.RNN import predict
from dl.modules.RNN.TextCNN import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network that tells a complaint from thanks by one word."""
    folder = tmp_path_factory.mktemp("mails")
    rows = [f"{word} {'film ' * n}and {'again ' * n},{label}" for n in range(1, 13) for word, label in LABELS.items()]
    (folder / "mails.csv").write_text("\n".join(rows), encoding="utf-8")
    data = f"labelled:{folder / 'mails.csv'}"
    train.main(train.Config(str(folder / "run"), data, model="tiny", epochs=20, batch_size=4, lr=0.03, plots=False))
    return str(folder / "run")


LABELS = {"good": "thanks", "bad": "complaint"}


def test_each_sentence_has_its_class_and_the_words_that_are_unknown(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert predict.main(["Bad film again!", "a good film", "--run", run]) == 0
    complaint, thanks = capsys.readouterr().out.splitlines()
    assert complaint.startswith("complaint  ") and complaint.endswith("%  Bad film again!  (unknown: !)")
    assert thanks.startswith("thanks  ") and thanks.endswith("%  a good film  (unknown: a)")
    assert all(float(line.split()[1].removesuffix("%")) > 50 for line in (complaint, thanks))


def test_a_sentence_without_words_and_a_run_of_another_recipe_are_one_line(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gru = write_run(tmp_path / "gru", "RNN/GRU")
    for sentence, folder, says in ((" ", run, "of no words"), ("a", str(gru), "is a run of RNN/GRU, not of RNN/TextCNN")):
        capsys.readouterr()
        assert predict.main([sentence, "--run", folder]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and says in error and error.count("\n") == 1
