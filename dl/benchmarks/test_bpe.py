import json
from pathlib import Path

import pytest

from dl.benchmarks import bpe


@pytest.mark.parity
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("tiktoken")
    (tmp_path / "text").write_text("the cat sat on the mat, that is it. " * 3000, encoding="utf-8")
    bpe.main(["--text", str(tmp_path / "text"), "--merges", "20", "--out", str(tmp_path / "results" / "bpe.json")])
    figures = json.loads((tmp_path / "results" / "bpe.json").read_text(encoding="utf-8"))["figures"]
    assert figures["training, s"].keys() == {"ours", "tokenizers"}
    assert figures["encoding, MB/s"].keys() == figures["again, MB/s"].keys() == {"ours", "tokenizers", "tiktoken"}
    assert "tiktoken" in capsys.readouterr().out
