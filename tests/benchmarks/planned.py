"""What `resmem plan` says of memories that fit here, against what they take.

    python tests/benchmarks/planned.py [--sizes 50000 200000 1000000] [--kinds exact ivf-pq]

Draws random memories, and runs each step on them: `residualize`, `index` of each kind, and `predict`, once
with few queries and once with all, so that what it does once is told apart. Prints the bytes of every
artifact and the seconds of every step as planned for this machine's cores, as measured, and their ratio.
With `--top M` residuals are kept with their M largest entries.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from example_arrays import draw, save
from measuring import print_setting, print_table, seconds_of

from resmem_cli import (
    ImportConfig,
    IndexConfig,
    Machines,
    MemorySize,
    PredictConfig,
    ResidualizeConfig,
    import_arrays,
    index,
    predict,
    residualize,
)
from resmem_cli.scaling.costs import planned_steps, query_cost
from resmem_cli.scaling.layout import planned_bytes, with_kind
from resmem_cli.threads import n_threads
from resmem_cli.types import ArraySelection

_FEW = 10  # part of the queries that the first prediction is of
Row = tuple[str, str, float, float]


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="+", default=["exact", "ivf-pq"])
    parser.add_argument("--top", type=int)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where to make the files; else a temporary folder")
    given = parser.parse_args()
    machines = Machines(cores=n_threads())
    print_setting(cores=machines.cores, dimensions=given.dimensions, classes=given.classes, k=given.k)
    sizes: list[Row] = []
    times: list[Row] = []
    for n in given.sizes:
        size = MemorySize(
            n, given.dimensions, given.classes, given.k, given.queries, top=given.top, kind=given.kinds[0]
        )
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            _measure(size, machines, given.kinds, Path(folder), sizes, times)
        print(f"{n:,} rows measured", flush=True)
    for title, unit, rows in (("bytes", "", sizes), ("seconds", " s", times)):
        print(f"\n{title}")
        shown = [
            (what, name, f"{planned:,.4g}{unit}" if unit else f"{planned:,.0f}",
             f"{measured:,.4g}{unit}" if unit else f"{measured:,.0f}", f"{planned / measured:.4g}")
                for what, name, planned, measured in rows
        ]  # fmt: skip
        print_table(["rows", "of", "planned", "measured", "ratio"], shown)


def _measure(
    size: MemorySize,
    machines: Machines,
    kinds: Sequence[str],
    folder: Path,
    sizes: list[Row],
    times: list[Row],
) -> None:
    n = f"{size.rows:,}"
    drawn = draw(size.rows + size.queries, d=size.dimensions, n_classes=size.classes)
    arrays = folder / "arrays.npz"
    few = size.queries // _FEW
    save(
        arrays,
        train=drawn.at(slice(size.rows)),
        test=drawn.at(slice(size.rows, None)),
        val=drawn.at(slice(size.rows, size.rows + few)),
    )
    del drawn
    memory, residuals = folder / "embeddings.h5", folder / "residuals.h5"
    import_arrays(arrays, output=memory, config=ImportConfig(arrays=ArraySelection(split="train")))
    files = {"embeddings": memory, "residuals": residuals}
    steps = {step.name: step.seconds for step in planned_steps(size, machines)}
    config = ResidualizeConfig(top=size.top)
    times.append(
        (n, "residualize", steps["residualize"],
         seconds_of(lambda: residualize(memory, output=residuals, config=config)))
    )  # fmt: skip
    planned = planned_bytes(replace(size, top=None)) | {"residuals": planned_bytes(size)["residuals"]}
    sizes += [(n, name, planned[name], path.stat().st_size) for name, path in files.items()]
    for kind in kinds:
        own = with_kind(size, kind)
        path, answers = folder / f"{kind}.h5", folder / f"{kind}.predictions.h5"
        build = IndexConfig(kind=kind, k=size.k)
        seconds = seconds_of(lambda path=path, build=build: index(memory, output=path, config=build))
        steps = {step.name: step.seconds for step in planned_steps(own, machines)}
        whole = sum(of for name, of in steps.items() if name.startswith("index-"))
        times.append((n, f"building {kind}", whole, seconds))

        def answer(split: str, path: Path = path, answers: Path = answers) -> float:
            settings = PredictConfig(k=size.k, arrays=ArraySelection(split=split))
            return seconds_of(
                lambda: predict(arrays, index=path, residuals=residuals, output=answers, config=settings)
            )

        once = answer("val")
        once = min(once, answer("val"))
        measured = (answer("test") - once) / (size.queries - few)
        times.append((n, f"1,000 queries, {kind}", 1000 * query_cost(own, machines).seconds, 1000 * measured))
        planned = planned_bytes(own)
        sizes.append((n, f"index, {kind}", planned["index"], path.stat().st_size))
        sizes.append((n, f"predictions, {kind}", planned["predictions"], answers.stat().st_size))


if __name__ == "__main__":
    main()
