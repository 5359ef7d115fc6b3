"""The text format of TUDataset: a tiny set, what is refused, the folds; in the parity tier the published sets."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import sources
from dl.mytorch.data.graphs import tu
from dl.mytorch.data.graphs.batches import Graph

# A path of 3 nodes and one edge. Labels are -1 and 1, as MUTAG's.
PARTS = {"A": "2, 1\n1, 2\n3, 2\n2, 3\n4, 5\n5, 4\n", "graph_indicator": "1\n1\n1\n2\n2\n"}
PARTS |= {"graph_labels": "1\n-1\n", "node_labels": "0\n2\n0\n1\n1\n"}


def write(folder: Path, **changes: str) -> Path:
    path = folder / "MUTAG.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for part, text in {**PARTS, **changes}.items():
            archive.writestr(f"MUTAG/MUTAG_{part}.txt", text)
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "DATA", tmp_path)
    monkeypatch.setitem(tu.COUNTS, "mutag", (2, 5, 6))
    (tmp_path / "tudataset").mkdir()
    return tmp_path / "tudataset"


def test_graphs_are_read_with_their_nodes_from_0_and_edges_by_target(data: Path) -> None:
    write(data)
    path, edge = tu.load("mutag")
    assert path.edges.tolist() == [[1, 0, 2, 1], [0, 1, 1, 2]] and edge.edges.tolist() == [[1, 0], [0, 1]]
    assert path.features.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0]] and edge.features.tolist() == [[0, 1, 0]] * 2
    assert (path.label, edge.label) == (1, 0)


WRONG = {
    "an edge to a node that does not exist": {"A": "1, 6\n"},
    "an edge between two graphs": {"A": "1, 4\n"},
    "nodes that are not in the order of their graphs": {"graph_indicator": "1\n2\n1\n2\n2\n"},
    "a node too few": {"node_labels": "0\n2\n0\n1\n"},
    "text": {"graph_labels": "a\nb\n"},
    "an empty file": {"node_labels": ""},
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_no_set_of_graphs_is_refused_in_one_line(kind: str, data: Path) -> None:
    write(data, **WRONG[kind])
    with pytest.raises(UserError, match=r"MUTAG.zip is no set of graphs \(.*\): delete it") as refused:
        tu.load("mutag")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(50)])
def test_a_file_that_is_no_zip_is_refused_in_one_line(content: bytes, data: Path) -> None:
    (data / "MUTAG.zip").write_bytes(content)
    with pytest.raises(UserError, match="MUTAG.zip is no set of graphs"):
        tu.load("mutag")


def test_a_zip_with_a_file_missing_or_of_another_set_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(data)
    monkeypatch.setitem(tu.COUNTS, "mutag", (188, 3371, 7442))
    with pytest.raises(UserError, match=r"has \(2, 5, 6\) graphs, nodes and edges, not \(188"):
        tu.load("mutag")
    with zipfile.ZipFile(data / "MUTAG.zip", "w") as archive:
        archive.writestr("MUTAG/MUTAG_A.txt", "1, 2\n")
    with pytest.raises(UserError, match="graph_indicator"):
        tu.load("mutag")


def test_a_missing_set_is_one_line_that_says_where_from_and_where_to(data: Path) -> None:
    with pytest.raises(
        UserError, match="PROTEINS.zip does not exist.*https://www.chrsmrrs.com/graphkerneldatasets/PROTEINS.zip"
    ):
        tu.load("proteins")
    with pytest.raises(UserError, match="--data cora: this recipe's function loads mutag, proteins"):
        tu.graph_splits(TrainConfig(out="x", data="cora"), 0)


def test_every_graph_is_in_one_fold_and_every_fold_has_its_share_of_each_class() -> None:
    labels = (torch.arange(188) % 3 == 0).long()
    folds = tu.folds(labels)
    assert sorted(folds.bincount().tolist()) == [18] * 2 + [19] * 8
    assert set(folds[labels == 1].bincount().tolist()) == {6, 7}
    assert torch.equal(folds, tu.folds(labels))  # whatever the seed of a training


def test_one_fold_tests_the_next_one_validates_and_eight_train() -> None:
    labels = torch.arange(40) % 2
    graphs = {"features": torch.arange(40).view(40, 1, 1).float(), "labels": labels}
    tested, validated = [], set()
    for fold in range(10):
        parts = tu.fold_splits(TrainConfig(out="x", data="mutag", batch_size=50), graphs, fold)
        seen = [{int(x) for batch in part.batches() for x in batch["features"]} for part in parts]
        assert [len(part) for part in seen] == [32, 4, 4] and set.union(*seen) == set(range(40))
        tested.append(seen[2])
        if fold:
            assert validated == seen[2]
        validated = seen[1]
    assert set.union(*tested) == set(range(40)) and validated == tested[0]


@pytest.mark.parity
@pytest.mark.parametrize("name", tu.SHAPES)
def test_the_published_sets_are_those_of_torch_geometric(name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("torch_geometric.datasets")
    folder, title = sources.find(tu.SOURCES[name]), tu.TITLES[name]
    if folder is None:
        pytest.skip(f"{tu.SOURCES[name].folders[0]} does not hold {title}.zip")
    (tmp_path / title / "raw").mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{title}.zip") as archive:
        for member in archive.namelist():
            (tmp_path / title / "raw" / Path(member).name).write_bytes(archive.read(member))
    theirs, ours = datasets.TUDataset(str(tmp_path), title), tu.load(name)
    assert len(theirs) == len(ours) and ours[0].features.shape[1] == tu.SHAPES[name][0]
    for their, own in zip(theirs, ours):
        assert torch.equal(their.x, own.features) and their.y.item() == own.label
        order = np.lexsort((their.edge_index[0].numpy(), their.edge_index[1].numpy()))
        assert torch.equal(their.edge_index[:, order], own.edges)


def colours(graphs: list[Graph], rounds: int) -> list[tuple]:
    """Return what so many rounds of the Weisfeiler-Lehman test know of each graph: the sorted colours of its nodes."""
    known: list[list] = [graph.features.argmax(1).tolist() for graph in graphs]
    for _ in range(rounds):
        names: dict = {}
        following = []
        for graph, own in zip(graphs, known):
            near = [[] for _ in own]
            for source, target in graph.edges.T.tolist():
                near[target].append(own[source])
            keys = [(colour, tuple(sorted(of))) for colour, of in zip(own, near)]
            following.append([names.setdefault(key, len(names)) for key in keys])
        known = following
    return [tuple(sorted(own)) for own in known]


@pytest.mark.parity
@pytest.mark.parametrize(("name", "right"), [("mutag", (175, 180, 187, 188)), ("proteins", (1023, 1110, 1110, 1110))])
def test_no_network_of_messages_can_be_right_more_often_than_the_weisfeiler_lehman_test(name: str, right: tuple) -> None:
    if sources.find(tu.SOURCES[name]) is None:
        pytest.skip(f"{tu.SOURCES[name].folders[0]} does not hold {tu.TITLES[name]}.zip")
    graphs = tu.load(name)
    for rounds, most in zip((0, 1, 2, 4), right):
        labels: dict = {}
        for graph, key in zip(graphs, colours(graphs, rounds)):
            labels.setdefault(key, []).append(graph.label)
        assert sum(max(of.count(0), of.count(1)) for of in labels.values()) == most
