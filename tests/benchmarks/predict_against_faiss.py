"""How long `resmem predict` takes, as a whole process, beside other libraries on the same arrays.

    python tests/benchmarks/predict_against_faiss.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5] [--rounds 5]

"bare faiss" is one process that imports numpy and faiss, loads the embeddings and runs `IndexFlatL2.search`
for the same k: no residuals, no re-ranking, nothing written. The other peers (`peer_predictions.py`) do the
whole job: search, mix the same residuals with the same weights, write scores and neighbours; those with an
index load it as `resmem predict` does, and the time of building it stands beside. Of every peer the last
column says how many predicted classes are those of `resmem`, and how many of the true neighbours it found.
Without arrays, random ones of CIFAR100's size are made. A peer ten times slower than `resmem` runs once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from example_arrays import Source, add_arguments, given_sources
from measuring import (
    NOT_INSTALLED,
    FailedProcess,
    Run,
    in_turn,
    installed,
    print_runs,
    print_setting,
    resmem,
    run,
)
from numpy.typing import NDArray
from peer_predictions import PEERS

from resmem_cli import compute_residuals, open_artifact

INDEX_OPTIONS = ("--kind", "exact")
BARE = "bare faiss"
OURS = "resmem"
_TOO_SLOW = 10


def export(folder: Path, memory: Source, queries: Source, settings: dict[str, float]) -> None:
    """Write the arrays as the peers read them."""
    remembered, asked = memory.read(), queries.read()
    residuals = compute_residuals(remembered.logits, remembered.labels, temperature=settings["temperature"])
    for name, array in (
        ("memory", remembered.embeddings),
        ("residuals", residuals),
        ("queries", asked.embeddings),
        ("logits", asked.logits),
    ):
        np.save(folder / f"{name}.npy", array)
    (folder / "settings.json").write_text(json.dumps(settings))


def peer_run(name: str, folder: Path, *more: str) -> Run:
    """Run a peer."""
    return run([sys.executable, Path(__file__).with_name("peer_predictions.py"), name, folder, *more])


def agreement(folder: Path, predicted: NDArray[Any], rows: NDArray[Any], *, exact: bool) -> str:
    """Compare a peer's result with ours."""
    with np.load(folder / "result.npz") as result:
        others = int((result["predicted"] != predicted).sum())
        told = "same classes" if not others else f"{others:,} of {len(predicted):,} other classes"
        if exact or "rows" not in result:
            return told
        found = [len(np.intersect1d(a, b)) for a, b in zip(result["rows"], rows, strict=True)]
        return f"{told}, recall {np.mean(found) / rows.shape[1]:.3f}"


def main() -> None:
    """Run all in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-k", type=int, default=53)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), metavar="NAME")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory, queries = given_sources(given, folder)
        index, residuals, output = (folder / f"{made}.h5" for made in ("index", "residuals", "predictions"))
        resmem("index", *memory.arguments, *INDEX_OPTIONS, "-o", index)
        resmem("residualize", *memory.arguments, "-o", residuals)
        predict: list[str | Path] = [
            "predict",
            *queries.arguments,
            "--index",
            index,
            "--residuals",
            residuals,
        ]
        predict += ["-k", str(given.k), "-o", output]
        first = resmem(*predict)
        settings = {
            "k": given.k,
            "sigma": first.summary["sigma"],
            "temperature": first.summary["temperature"],
        }
        export(folder, memory, queries, settings)
        print_setting(
            memory=f"{first.summary['memory']:,} rows", queries=f"{first.summary['queries']:,}", **settings
        )
        with open_artifact(output) as predictions:
            predicted, rows = predictions.read("predicted"), predictions.read("neighbors/rows")

        told, once, missing = {}, {}, {}
        works = {OURS: partial(resmem, *predict), BARE: partial(peer_run, "bare", folder)}
        for peer in given.peers:
            if not installed(PEERS[peer].module):
                missing[peer] = NOT_INSTALLED
                continue
            try:
                built = peer_run(peer, folder, "--prepare").seconds if PEERS[peer].prepare else None
                one = peer_run(peer, folder)
            except FailedProcess as failure:
                missing[peer] = str(failure)
                continue
            told[peer] = agreement(folder, predicted, rows, exact=PEERS[peer].exact)
            if built is not None:
                told[peer] += f", built in {built:.1f} s"
            if one.seconds > _TOO_SLOW * first.seconds:
                once[peer] = [one]
            else:
                works[peer] = partial(peer_run, peer, folder)
        print_runs({**in_turn(works, given.rounds), **once}, ours=OURS, more=told)
    for peer, why in missing.items():
        print(f"{peer}: {why}")


if __name__ == "__main__":
    main()
