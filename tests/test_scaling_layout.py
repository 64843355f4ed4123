"""The bytes that are planned for each artifact, against artifacts that were written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resmem_cli import (
    IndexConfig,
    PredictConfig,
    ResidualizeConfig,
    import_arrays,
    index,
    predict,
    residualize,
)
from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.scaling import layout
from resmem_cli.scaling.sizes import MemorySize
from resmem_cli.types import StorageType

SIZES = {
    "small": MemorySize(6_000, 32, 20, k=10, queries=3_000),
    "top": MemorySize(15_000, 48, 100, k=30, queries=1_000, top=10, top_scores=5),
    "half": MemorySize(20_000, 64, 40, k=50, queries=800, storage=StorageType.FLOAT16),
}
KINDS = ("exact", "ivf", "ivf-rabitq", "ivf-pq", "hnsw")


@pytest.fixture(scope="module", params=SIZES)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MemorySize, Path]:
    size, folder = SIZES[request.param], tmp_path_factory.mktemp(request.param)
    generator = np.random.default_rng(0)
    for name, n in (("memory", size.rows), ("queries", size.queries)):
        np.savez(
            folder / f"{name}.npz",
            embeddings=generator.normal(size=(n, size.dimensions)).astype(size.storage.value),
            logits=generator.normal(size=(n, size.classes)).astype(size.storage.value),
            labels=generator.integers(0, size.classes, size=n),
        )
    import_arrays(folder / "memory.npz", output=folder / "embeddings.h5")
    config = ResidualizeConfig(top=size.top)
    residualize(folder / "embeddings.h5", output=folder / "residuals.h5", config=config)
    kinds = KINDS if request.param == "small" else ("exact", "ivf-pq")
    for kind in kinds:
        build = IndexConfig(kind=kind, measure_quality=False)
        index(folder / "embeddings.h5", output=folder / f"{kind}.h5", config=build)
    predict(
        folder / "queries.npz",
        index=folder / "exact.h5",
        residuals=folder / "residuals.h5",
        output=folder / "predictions.h5",
        config=PredictConfig(k=size.k, top_scores=size.top_scores),
    )
    return size, folder


def test_bytes_are_those_of_written_artifacts(written: tuple[MemorySize, Path]) -> None:
    size, folder = written
    planned = {
        "embeddings": layout.embeddings_bytes(replace(size, top=None)),
        "residuals": layout.residuals_bytes(size),
        "predictions": layout.predictions_bytes(size),
    }
    planned |= {
        kind: layout.index_bytes(layout.with_kind(size, kind))
        for kind in KINDS
        if (folder / f"{kind}.h5").exists()
    }
    for name, n_bytes in planned.items():
        assert n_bytes == pytest.approx((folder / f"{name}.h5").stat().st_size, rel=0.01), name


@pytest.mark.parametrize(("n", "m", "classes"), [(3_000, 128, 32_128), (50_000, 8, 100_000)])
def test_bytes_of_the_largest_logits(n: int, m: int, classes: int, tmp_path: Path) -> None:
    size = MemorySize(n, 16, classes, top=m)
    with ArtifactWriter(tmp_path / "e.h5", EMBEDDINGS, parameters={"sources": {}}) as writer:
        kind = np.uint16 if classes <= 1 << 16 else np.int32
        for name, shape, dtype in (
            ("embeddings", (n, 16), np.float32),
            ("labels", (n,), np.int32),
            ("logits_top/classes", (n, m), kind),
            ("logits_top/values", (n, m), np.float32),
            ("logsumexp", (n,), np.float64),
            ("label_logit", (n,), np.float32),
        ):
            writer.write(name, np.zeros(shape, dtype))
    assert layout.embeddings_bytes(size) == pytest.approx((tmp_path / "e.h5").stat().st_size, rel=0.01)


def test_all_artifacts_of_a_pipeline() -> None:
    planned = layout.planned_bytes(SIZES["small"])
    assert list(planned) == ["embeddings", "residuals", "index", "predictions"]
    assert all(n_bytes > 0 for n_bytes in planned.values())


def test_bytes_grow_with_the_rows_and_no_faster() -> None:
    size = MemorySize(10**6, 1024, 32_128, top=128, top_scores=10, kind="ivf-pq")
    one, hundred = layout.planned_bytes(size), layout.planned_bytes(replace(size, rows=10**8))
    for name in ("embeddings", "residuals"):
        assert hundred[name] == pytest.approx(100 * one[name], rel=0.002)
    assert one["predictions"] == hundred["predictions"]
    assert layout.residuals_bytes(size) == pytest.approx(10**6 * (4 + 512), rel=0.01)


def test_the_exact_kind_keeps_coordinates_of_wide_rows() -> None:
    wide = MemorySize(50_000, 512, 10)
    assert layout.reduced_columns(wide) == 64
    assert layout.reduced_columns(replace(wide, parameters={"axes": 0})) == 0
    assert layout.reduced_columns(replace(wide, parameters={"axes": 127})) == 128
    assert layout.reduced_columns(replace(wide, dimensions=64)) == 0
    assert layout.reduced_columns(replace(wide, kind="ivf")) == 0


def test_bytes_of_an_exact_index_that_is_searched_on_axes(tmp_path: Path) -> None:
    size = MemorySize(12_000, 64, 2, parameters={"axes": 31})
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(12_000, 64)).astype(np.float32))
    index(
        tmp_path / "a.npy",
        output=tmp_path / "i.h5",
        config=IndexConfig(kind="exact", parameters=size.parameters),
    )
    assert layout.index_bytes(size) == pytest.approx((tmp_path / "i.h5").stat().st_size, rel=0.01)


@pytest.mark.parametrize(
    ("row_bytes", "read"),
    [(512, 4096), (4096, 4096), (8192, 8192), (2048, 4096), (5120, 12_288)],
)
def test_a_random_row_is_read_in_whole_pages(row_bytes: int, read: int) -> None:
    assert layout.random_row_bytes(row_bytes) == read
