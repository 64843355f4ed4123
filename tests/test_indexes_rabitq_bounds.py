"""Codes that faiss leaves out by a bound are not the nearest, whatever it scanned before them."""

from __future__ import annotations

import numpy as np
import pytest

from resmem_cli.indexes.ivf_rabitq import IVFRaBitQIndex
from resmem_cli.indexes.list_scanner import ListScanner
from resmem_cli.indexes.rabitq_bounds import lower_bounds
from resmem_cli.rows import ArrayInMemory

N, QUERIES = 2000, 100
every_length = pytest.mark.parametrize("d", [5, 13, 64, 100])
every_width = pytest.mark.parametrize("bits", [2, 4, 8])


def drawn(n, d, seed):
    """Draw rows of very different lengths, not around the origin."""
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.normal(size=(n, d)), 0) * np.exp(rng.normal(size=(n, 1)))
    return rows.astype(np.float32)


def scanner(d, bits, *, error):
    """Build lists, with `error` times the bounds that faiss gives for the errors of its estimates."""
    index = IVFRaBitQIndex.build(drawn(N, d, 0), parameters={"lists": 8, "bits": bits})
    entries, layout = index.entries.read(0, index.entries.shape[0]).copy(), index.layout
    first = -(-d // 8) + 8
    for offset, size in zip(layout.offsets, layout.sizes, strict=False):
        codes = entries[offset : offset + size * layout.code_bytes].reshape(size, -1)
        bounds = codes[:, first : first + 4].copy().view(np.float32) * np.float32(error)
        codes[:, first : first + 4] = bounds.view(np.uint8)
    queries = index.space.searched(drawn(QUERIES, d, 1))
    return ListScanner(index.new_engine(), index.centres, ArrayInMemory(entries), layout), queries


def nearest(scanner, queries, count):
    """Give the nearest rows, of fewer to more."""
    return np.sort(scanner.nearest(queries, count, probe=8, together=QUERIES)[0], axis=1)


def all_in_order(scanner, queries):
    """Give all rows by (square, row); with room for all, none is left out."""
    rows, squares, _ = scanner.nearest(queries, N, probe=8, together=QUERIES)
    return np.take_along_axis(rows, np.lexsort((rows, squares), axis=1), axis=1)


@every_length
@every_width
@pytest.mark.parametrize("error", [1, 0.3, 0])
def test_the_nearest_are_those_of_all_codes(d, bits, error):
    """With bounds that are too small most rows are left out too early: their distances are raised."""
    lists, queries = scanner(d, bits, error=error)
    in_order = all_in_order(lists, queries)
    for count in (1, 10, 100):
        found = nearest(lists, queries, count)
        np.testing.assert_array_equal(found, np.sort(in_order[:, :count], axis=1))


def test_without_bounds_they_are_not():
    """What is tested above is there: some rows that faiss left out are among the nearest."""
    lists, queries = scanner(64, 4, error=0.3)
    lists._bounds = None
    in_order = all_in_order(lists, queries)
    assert (nearest(lists, queries, 100) != np.sort(in_order[:, :100], axis=1)).any()


def test_distances_are_only_raised_and_seldom():
    lists, queries = scanner(64, 4, error=1)
    raised = lists.nearest(queries, N, probe=8, together=QUERIES)
    lists._bounds = None
    plain = lists.nearest(queries, N, probe=8, together=QUERIES)
    by_row = [np.take_along_axis(squares, np.argsort(rows), axis=1) for rows, squares, _ in (raised, plain)]
    assert (by_row[0] >= by_row[1]).all()
    assert 0 < (by_row[0] > by_row[1]).mean() < 0.05


def test_codes_of_one_bit_have_none():
    engine = IVFRaBitQIndex.build(drawn(N, 8, 0), parameters={"bits": 1}).new_engine()
    assert lower_bounds(engine, None, np.zeros((1, 8), np.float32)) is None
