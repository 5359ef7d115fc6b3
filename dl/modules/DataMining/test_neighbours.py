"""Exact search: equal to NumPy and to faiss, ties by the rule, whatever the blocks and the memory."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dl.modules.DataMining.neighbours import Exact, power
from dl.mytorch.config import UserError
from dl.mytorch.testing.device import device_without_float64

DISTANCES = ["l1", "l2", "l2.0", "l3", "l0.5", "linf", "cosine", "dot"]


def by_numpy(queries: Tensor, vectors: Tensor, k: int, distance: str) -> tuple[np.ndarray, np.ndarray]:
    """The textbook, in float64: all distances, then a stable sort."""
    q, x = queries.double().numpy()[:, None], vectors.double().numpy()[None]
    if distance in ("cosine", "dot"):
        products = (q * x).sum(-1)
        if distance == "cosine":
            distances = 1 - products / (np.linalg.norm(q, axis=-1) * np.linalg.norm(x, axis=-1))
        else:
            distances = -products
    else:
        distances = np.linalg.norm(q - x, float(distance[1:]), -1)
    rows = distances.argsort(1, kind="stable")[:, :k]
    found = np.take_along_axis(distances, rows, 1)
    return (-found if distance == "dot" else found), rows


@pytest.mark.parametrize("distance", DISTANCES)
def test_search_is_numpy_s_however_vectors_are_cut_and_however_small_the_memory(distance: str) -> None:
    vectors, queries = torch.randn(2300, 12), torch.randn(9, 12)
    expected, rows = by_numpy(queries, vectors, 5, distance)
    for blocks, memory in ((vectors, 2**26), (vectors.split(33), 2**26), (vectors.split(1250), 4096)):
        found, places = Exact(blocks, memory).search(queries, 5, distance)
        np.testing.assert_array_equal(places.numpy(), rows)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_of_equal_distances_the_lower_row_comes_first(distance: str) -> None:
    few = torch.randint(-2, 3, (6, 8)).float()
    vectors = few.repeat(100, 1)  # row i is row i % 6, so that many more are equal than candidates are kept
    found, rows = Exact(vectors).search(few, 20, distance)
    for i in range(6):
        for value in found[i].unique():
            same = rows[i][found[i] == value].tolist()
            assert same == sorted(same)
        if distance not in ("dot",):
            assert rows[i].tolist() == list(range(i, 120, 6))
    np.testing.assert_array_equal(rows.numpy(), by_numpy(few, vectors, 20, distance)[1])


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_of_twins_the_lower_row_comes_first(distance: str) -> None:
    vectors = torch.randint(-9, 10, (3000, 16)).float()
    twins = torch.randperm(3000)[:200].view(2, 100)
    vectors[twins[0]] = vectors[twins[1]]
    rows = Exact(vectors).search(vectors[twins[0]], 2, distance)[1]
    assert torch.equal(rows, twins.T.sort(dim=1).values)


def test_neighbours_that_float32_cannot_tell_apart_are_found() -> None:
    vectors = torch.full((3000, 4), 1000.0, dtype=torch.float64)
    vectors[:, 0] += torch.randperm(3000).double() * 1e-6  # in float32, |x|^2 has steps of a quarter here
    vectors = vectors.float()
    query = vectors[1234:1235]
    found, rows = Exact(vectors).search(query, 3, "l2")
    expected, wanted = by_numpy(query, vectors, 3, "l2")
    np.testing.assert_array_equal(rows.numpy(), wanted)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_cosine_of_a_vector_without_length_is_1_and_fewer_vectors_give_fewer_columns() -> None:
    found, rows = Exact(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).search(torch.tensor([[6.0, 8.0]]), 5, "cosine")
    assert found.tolist() == [[0.0, 1.0]] and rows.tolist() == [[1, 0]]


@pytest.mark.parametrize("wrong", ["l", "l-1", "l0", "lnan", "euclid", "2", "L2"])
def test_an_unknown_distance_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"distance {wrong!r}"):
        power(wrong)


def test_vectors_and_queries_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one D"):
        Exact([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match=r"queries are \(Q, 3\)"):
        Exact(torch.zeros(2, 3)).search(torch.zeros(1, 4))


def assert_nearest(vectors: Tensor, queries: Tensor, distance: str, k: int = 5) -> None:
    """The distances are those of the nearest in float64, and each is that of its row; nearly equal ones in any order."""
    every, order = by_numpy(queries, vectors, len(vectors), distance)
    found, rows = Exact(vectors).search(queries, k, distance)
    of_row = np.take_along_axis(every, order.argsort(1), 1)
    tolerance = {"rtol": 1e-9, "atol": 1e-12 if distance == "cosine" else 0}
    np.testing.assert_allclose(found.numpy(), every[:, :k], **tolerance)
    np.testing.assert_allclose(np.take_along_axis(of_row, rows.numpy(), 1), found.numpy(), **tolerance)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_nearest_are_those_of_float64_whatever_the_scale(distance: str) -> None:
    vectors, queries = torch.randn(200, 12), torch.randn(2, 12)
    for scale in (1e-30, 1e-22, 1e-20, 1e-19, 1e-15, 1e-5, 1e5, 1e15, 1e18, 1e19, 1e22, 1e30):
        for of_queries in (scale, 10 * scale, 1):
            assert_nearest(vectors * scale, queries * of_queries, distance)


def test_cubes_that_float32_holds_with_few_digits_lose_no_neighbour() -> None:
    generator = torch.Generator().manual_seed(0)
    assert_nearest(*(1e-15 * torch.randn(n, 12, generator=generator) for n in (3000, 60)), "l3")


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_nearest_are_those_of_float64_where_each_vector_has_a_scale_of_its_own(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (torch.randn(n, 12, generator=generator, dtype=torch.float64) for n in (200, 40))
    vectors, queries = (x * 10.0 ** torch.randint(-25, 25, (len(x), 1), generator=generator) for x in (vectors, queries))
    assert_nearest(vectors.float(), queries.float(), distance)


@pytest.mark.parametrize("distance", DISTANCES)
def test_differences_below_float32_s_digits_count(distance: str) -> None:
    for deviation in (1e-7, 1e-4):
        vectors = 1000 + deviation * torch.randn(400, 4, dtype=torch.float64)
        assert_nearest(vectors, vectors[3:6], distance)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_nearest_of_distances_that_differ_in_their_last_digits_are_found(distance: str) -> None:
    order = torch.rand(2000, 64).argsort(1)
    for deviation in (2e-7, 1e-6, 3e-6):  # the same numbers in other orders, nearly
        assert_nearest(torch.rand(64)[order] * (1 + deviation * torch.randn(2000, 64)), torch.full((2, 64), -1.0), distance)


@pytest.mark.parametrize("distance", DISTANCES)
def test_vectors_that_are_not_finite_come_last_and_hide_no_others(distance: str) -> None:
    vectors, query = torch.randn(3000, 16), torch.randn(1, 16)
    expected = Exact(vectors).search(query, 5, distance)
    for place in set(range(0, 3000, 50)) - set(expected[1][0].tolist()):
        vectors[place, place % 16] = (np.nan, np.inf, -np.inf)[place // 50 % 3]
    exact = Exact(vectors.split(1400))
    found = exact.search(query, 5, distance)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert 55 <= len(exact.nonfinite) <= 60 and all(row % 50 == 0 for row in exact.nonfinite.tolist())
    for scale in (1e-22, 1e22):  # no first pass
        assert torch.equal(Exact(vectors * scale).search(query * scale, 5, distance)[1], expected[1])
    distances, rows = exact.search(query, 3000, distance)
    assert rows[0].sort().values.tolist() == list(range(3000))
    assert distances[0, -len(exact.nonfinite) :].isnan().all() and distances[0, : -len(exact.nonfinite)].isfinite().all()
    assert rows[0, -len(exact.nonfinite) :].tolist() == exact.nonfinite.tolist()


def test_a_query_that_is_not_finite_and_a_power_that_makes_all_distances_infinite_are_refused() -> None:
    vectors = torch.rand(200, 512)
    with pytest.raises(UserError, match="NaN or infinity"):
        Exact(vectors).search(torch.full((1, 512), np.nan))
    with pytest.raises(UserError, match="distance 'l0.008' of 512 numbers .* P has to be at least 0.0089"):
        Exact(vectors).search(vectors[:1], 3, "l0.008")
    for distance in ("l0.01", "l100", "l1e6"):
        distances, rows = Exact(vectors).search(vectors[150:151] + 0.001, 3, distance)
        assert rows[0, 0] == 150 and distances.isfinite().all()
    assert Exact(vectors[:, :1]).search(vectors[:1, :1], 3, "l1e-9")[1][0, 0] == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_device_without_float64_finds_the_same(distance: str) -> None:
    vectors, queries = torch.randn(300, 6), torch.randn(2, 6)
    expected = Exact(vectors).search(queries, 3, distance)
    with device_without_float64() as device:
        found = Exact(vectors.to(device)).search(queries.to(device), 3, distance)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parity
@pytest.mark.parametrize("distance", ["l2", "dot", "l1"])
def test_search_is_faiss_s_on_60000_vectors_of_512(distance: str) -> None:
    faiss = pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (torch.randint(-8, 9, (n, 512), generator=generator).float() for n in (60_000, 100))
    vectors[30_000:30_050] = vectors[:50]  # of twins, the lower row
    queries[:50] = vectors[:50]
    metric = {"l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT, "l1": faiss.METRIC_L1}[distance]
    index = faiss.IndexFlat(512, metric)
    index.add(vectors.numpy())
    count = 40  # more, for the ties at the end, whose rows are in an order of faiss's own
    expected, rows = index.search(queries.numpy(), count)
    keys = -expected if distance == "dot" else expected
    order = np.lexsort((rows, keys), axis=1)[:, :5]
    expected, rows = (np.take_along_axis(a, order, 1) for a in (expected, rows))
    found, places = Exact(vectors).search(queries, 5, distance)
    np.testing.assert_array_equal(places.numpy(), rows)
    np.testing.assert_array_equal(found.square().round().numpy() if distance == "l2" else found.numpy(), expected)
