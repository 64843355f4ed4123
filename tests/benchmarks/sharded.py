"""The commands in shards against one process: the same predictions, wall times, and anonymous memory.

    python tests/benchmarks/sharded.py [--arrays FILE.npz] [--rows N] [--shards 8] [--growth]

For the arrays of a file, and for N drawn rows, each command is run without an engine, on `local:1` and on
`local:2`, in turn; the predictions of all three, and those of an index and residuals left in shards, are
held to be the same to the bit. Prints the median seconds of each, and the ratios. `--growth` prints the most
anonymous memory that the client and any worker had while the data grows 16 times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from example_arrays import draw, save
from measuring import print_setting, print_table

MEMORY = ("--index", "index.h5", "--residuals", "residuals.h5")
WAYS: dict[str, tuple[str, ...]] = {
    "one process": (),
    "local:1": ("--scheduler", "local:1"),
    "local:2": ("--scheduler", "local:2"),
}


def main() -> None:
    """Measure every data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arrays", type=Path, help="exported arrays with splits train and test")
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["exact", "ivf-pq"])
    parser.add_argument("--growth", action="store_true")
    given = parser.parse_args()
    print_setting(shards=given.shards, repetitions=given.repetitions)
    with tempfile.TemporaryDirectory() as folder:
        sources = [] if given.arrays is None else [given.arrays.absolute()]
        for n in given.rows:
            sources.append(Path(folder) / f"{n}.npz")
            save_drawn(sources[-1], n, given.queries, given)
        for number, source in enumerate(sources):
            place = Path(folder) / str(number)
            place.mkdir()
            measure(source, place, given)
        if given.growth:
            grow(Path(folder), given)


def save_drawn(path: Path, n: int, n_queries: int, given: argparse.Namespace) -> None:
    """Draw rows of a memory, and queries."""
    drawn = draw(n + n_queries, d=given.dimensions, n_classes=given.classes)
    save(path, train=drawn.at(slice(0, n)), test=drawn.at(slice(n, None)))


def measure(source: Path, place: Path, given: argparse.Namespace) -> None:
    """Measure one data set."""
    for split in ("train", "test"):
        resmem(place, "import", source, "--split", split, "-o", f"{split}.h5")
    shards = ("--shards", given.shards)
    for kind in given.kinds:
        steps: dict[str, tuple[object, ...]] = {
            "residualize": ("residualize", "train.h5", "-o", "residuals.h5"),
            "index": ("index", "train.h5", "--kind", kind, "-o", "index.h5"),
            "predict": ("predict", "test.h5", *MEMORY, "-o", "predictions.h5"),
        }
        seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in steps}
        digests: dict[str, set[str]] = {}
        for _ in range(given.repetitions):
            for way, on in WAYS.items():
                for name, words in steps.items():
                    began = time.perf_counter()
                    resmem(place, *words, *on, *(shards if on else ()))
                    seconds[name][way].append(time.perf_counter() - began)
                digests.setdefault(way, set()).add(digest(place / "predictions.h5"))
        on = (*WAYS["local:2"], *shards, "--manifest")
        for words in (steps["residualize"], steps["index"]):
            resmem(place, *words, *on)
        resmem(place, *steps["predict"])
        digests["shards in place"] = {digest(place / "predictions.h5")}
        resmem(place, *steps["predict"], *WAYS["local:2"], "--shards", 2)
        digests["shards searched by 2 workers"] = {digest(place / "predictions.h5")}
        same = len(set().union(*digests.values())) == 1
        told = "the same" if same else "DIFFER"
        print(f"\n{source.name}, {kind}: predictions of {', '.join(digests)}: {told}\n")
        rows = []
        for name, ways in seconds.items():
            medians = {way: statistics.median(times) for way, times in ways.items()}
            rows.append(
                (
                    name,
                    *(f"{value:.2f} s" for value in medians.values()),
                    f"{medians['local:1'] / medians['one process']:.2f}",
                    f"{medians['local:2'] / medians['local:1']:.2f}",
                )
            )
        print_table(("command", *WAYS, "local:1 / one process", "local:2 / local:1"), rows)


def grow(folder: Path, given: argparse.Namespace) -> None:
    """Measure the anonymous memory of client and workers at three sizes."""
    rows = []
    for n in (62_500, 250_000, 1_000_000):
        place = folder / f"growth-{n}"
        place.mkdir()
        save_drawn(place / "a.npz", n, 2_000, given)
        for split in ("train", "test"):
            resmem(place, "import", "a.npz", "--split", split, "-o", f"{split}.h5")
        on = ("--scheduler", "local:2", "--shards", given.shards, "--memory", "500M")
        for words in (
            ("residualize", "train.h5", "-o", "residuals.h5"),
            ("index", "train.h5", "--kind", "exact", "-o", "index.h5"),
            ("predict", "test.h5", *MEMORY, "-o", "predictions.h5"),
        ):
            more = on if words[0] != "residualize" else on[:4]
            client, worker = peak_anonymous(place, *words, *more)
            rows.append((words[0], f"{n:,}", f"{client / 2**20:.0f} MiB", f"{worker / 2**20:.0f} MiB"))
    rows.sort(key=lambda row: row[0])
    print()
    print_table(("command", "rows", "client", "largest worker"), rows)


def peak_anonymous(place: Path, *words: object) -> tuple[int, int]:
    """Run a command and give the most anonymous memory of it and of any process it started, in bytes."""
    process = subprocess.Popen(command(*words), cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    client = worker = 0
    while process.poll() is None:
        client = max(client, anonymous(process.pid))
        worker = max([worker, *map(anonymous, descendants(process.pid))])
        time.sleep(0.02)
    assert process.returncode == 0, process.communicate()[1]
    return client, worker


def descendants(pid: int) -> list[int]:
    """Give the processes below one."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    except OSError:
        pass
    return found


def anonymous(pid: int) -> int:
    """Give the anonymous memory of a process, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def command(*words: object) -> list[str]:
    """Give the words that run `resmem`."""
    return [sys.executable, "-m", "resmem_cli", *map(str, words), "--quiet"]


def resmem(place: Path, *words: object) -> str:
    """Run `resmem` and give what it prints."""
    done = subprocess.run(command(*words), cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def digest(predictions: Path) -> str:
    """Give the content digest of predictions."""
    words = [sys.executable, "-m", "resmem_cli", "info", str(predictions), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: Sequence[str] = json.loads(done.stdout)["result"]["content_digest"]
    return str(found)


if __name__ == "__main__":
    main()
