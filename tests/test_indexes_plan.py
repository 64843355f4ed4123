"""The choice of a kind from the size of a memory, and its estimated cost."""

import json

import faiss
import numpy as np
import pytest

from resmem_cli.indexes.base import index_kinds
from resmem_cli.indexes.counts import code_bytes
from resmem_cli.indexes.plan import plan_index

GIB = 1 << 30


def plan(n, d, *, memory=8 * GIB, itemsize=2, **given):
    return plan_index(n, d, itemsize=itemsize, memory=memory, **given)


@pytest.mark.parametrize(
    ("n", "d", "memory", "kind"),
    [
        (1, 1, 1, "exact"),
        (50_000, 64, 8 * GIB, "exact"),
        (1_281_167, 1280, 8 * GIB, "exact"),
        (1_281_167, 1280, 1 * GIB, "exact"),
        (10_000_000, 512, 16 * GIB, "ivf-pq"),
        (10_000_000, 512, 2 * GIB, "ivf-pq"),
        (1_600_000_000, 1024, 8 * GIB, "ivf-pq"),
    ],
)
def test_the_kind_follows_from_rows_dimensions_and_memory(n, d, memory, kind):
    chosen = plan(n, d, memory=memory)
    assert chosen.kind == kind
    assert f"{n:,} row{'s' if n > 1 else ''} of {d:,} dimensions" in chosen.reason


def test_the_reason_has_the_numbers():
    assert plan(10_000_000, 512).reason.endswith("are 2.5 GiB and fit in memory.")
    finer = plan(10_000_000, 512, parameters={"subquantizers": 128, "bits": 8})
    assert finer.reason.endswith("are 1.3 GiB and fit in memory.")
    assert plan(100_000_000, 512).reason.endswith(
        "are 25 GiB, more than the 8.0 GiB of memory: they are searched from the disk."
    )


def test_chosen_parameters_are_those_the_kind_takes(tmp_path):
    assert plan(10_000_000, 512, memory=16 * GIB).parameters == {}
    assert plan(10_000_000, 512, parameters={"bits": 8}).parameters == {"bits": 8}
    assert plan(50_000, 64, parameters={"axes": 0}).parameters == {"axes": 0}


@pytest.mark.parametrize("kind", index_kinds())
def test_every_kind_has_costs(kind):
    asked = plan(1_000_000, 64, kind=kind, parameters={"factory": "IVF64,SQ8"} if kind == "factory" else {})
    assert asked.kind == kind
    # Nobody knows how long the training of any string takes.
    assert (asked.build_seconds is None) == (kind == "factory")
    for name in ("search_bytes", "build_bytes", "disk_bytes", "query_seconds"):
        assert getattr(asked, name) > 0, name
    assert asked.disk_bytes >= 1_000_000 * 64 * 2
    assert asked.recall is None if kind == "factory" else 0.9 <= asked.recall <= 1
    larger = plan(4_000_000, 64, kind=kind)
    assert kind == "factory" or larger.build_seconds > asked.build_seconds > 0
    assert larger.disk_bytes > 3 * asked.disk_bytes


def test_finer_codes_take_more_disk():
    sizes = [plan(10**6, 64, kind="ivf-rabitq", parameters={"bits": bits}).search_bytes for bits in (1, 4, 8)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < plan(10**6, 64, kind="ivf").search_bytes
    assert plan(10**6, 64, kind="ivf").search_bytes < (
        plan(10**6, 64, kind="ivf", parameters={"storage": "float32"}).search_bytes
    )


@pytest.mark.parametrize("d", [4, 13, 128, 130])
def test_codes_are_as_wide_as_the_kind_makes_them(d):
    vectors = np.random.default_rng(0).normal(size=(600, d)).astype(np.float32)
    index = index_kinds()["ivf-pq"].build(vectors)
    planned = plan(600, d, kind="ivf-pq")
    lists = index.settings["lists"]
    assert planned.search_bytes == 600 * (index.code_bytes + 8) + 4 * lists * d


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("d", [13, 64, 130])
def test_codes_of_bits_a_dimension_are_as_wide_as_faiss_makes_them(d, bits):
    engine = faiss.IndexIVFRaBitQ(faiss.IndexFlatL2(d), d, 4, faiss.METRIC_L2, True, bits)
    assert code_bytes("ivf-rabitq", d, {"bits": bits}) == engine.code_size


def test_kinds_without_lists_have_no_codes():
    assert [kind for kind in index_kinds() if code_bytes(kind, 64) is None] == ["exact", "factory", "hnsw"]


def test_more_cores_take_less_time():
    for kind in ("exact", "ivf-pq", "hnsw"):
        one, many = (plan(10**7, 512, kind=kind, threads=threads) for threads in (1, 16))
        assert one.query_seconds == pytest.approx(16 * many.query_seconds)
        assert one.build_seconds > many.build_seconds
        assert "threads" not in one.summary()


def test_a_build_stays_within_the_memory():
    for n in (10**5, 10**7, 10**9):
        assert plan(n, 512, memory=2 * GIB).build_bytes <= 2 * GIB


@pytest.mark.parametrize("kind", index_kinds())
def test_a_build_that_can_not_stay_within_the_memory_is_told(kind):
    asked = plan(10**6, 64, memory=64 << 20, kind=kind)
    told = asked.excess(64 << 20)
    assert (told is not None) == (kind in ("hnsw", "factory"))
    assert told is None or "are more than the 64 MiB to stay within" in told
    assert asked.excess(8 * GIB) is None


def test_only_the_exact_kind_is_said_to_find_all():
    assert "recall 1." in plan(50_000, 64).sentence()
    assert "recall about 0.95" in plan(10**8, 512).sentence()
    assert "recall" not in plan(50_000, 64, kind="factory", parameters={"factory": "PQ8"}).sentence()


def test_a_summary_is_json():
    summary = plan(50_000, 64, kind="hnsw", parameters={"links": 16}).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["kind"] == "hnsw"
    assert summary["parameters"] == {"links": 16}
    assert {"rows", "dimensions", "reason", "disk_bytes", "build_seconds", "recall"} <= summary.keys()
