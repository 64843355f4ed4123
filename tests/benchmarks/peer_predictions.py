"""The same prediction by other libraries, each a process of its own, for `predict_against_faiss.py`.

    python tests/benchmarks/peer_predictions.py NAME FOLDER [--prepare]

The folder holds the memory's embeddings and residuals and the queries' embeddings and logits as .npy files,
and `settings.json` with k, sigma and the temperature. With `--prepare` a peer that has an index builds it
into the folder; without, it loads that, searches, mixes the residuals into the network's probabilities as
Yang et al. 2023 do, and writes the scores, the predicted classes, the neighbours and their distances.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peer
from numpy.typing import NDArray

Found = tuple[NDArray[Any], NDArray[Any]]
"""Rows and true, not squared, distances, (n_queries, k) each."""

_QUERIES_AT_ONCE = 512
_SCANN_LEAVES_TO_SEARCH, _SCANN_REORDER = 60, 200
_HNSW_EF_SEARCH = 200


class Task:
    """What there is to predict, each array read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = json.loads((folder / "settings.json").read_text())
        self.k: int = settings["k"]
        self.sigma: float = settings["sigma"]
        self.temperature: float = settings["temperature"]

    @cached_property
    def memory(self) -> NDArray[np.float32]:
        """(n, d)."""
        return self._array("memory")

    @cached_property
    def residuals(self) -> NDArray[np.float32]:
        """(n, C)."""
        return self._array("residuals")

    @cached_property
    def queries(self) -> NDArray[np.float32]:
        """(n_queries, d)."""
        return self._array("queries")

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """(n_queries, C)."""
        return self._array("logits")

    def weights(self, distances: NDArray[Any]) -> NDArray[Any]:
        """Compute the unnormalised weights of neighbours at these distances."""
        weights: NDArray[Any] = np.exp((distances.min(axis=1, keepdims=True) - distances) / self.sigma)
        return weights

    def _array(self, name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = np.load(self.folder / f"{name}.npy")
        return array


@dataclass(frozen=True)
class Peer:
    """One library's way.

    Attributes
    ----------
    module : str
        What has to be installed.
    exact : bool
        Whether it finds the k nearest rows, but for rounding.
    search : callable
        Finds the neighbours.
    prepare : callable, optional
        Builds what `search` loads.
    """

    module: str
    exact: bool
    search: Callable[[Task], Found]
    prepare: Callable[[Task], None] | None = None


def search_numpy(task: Task) -> Found:
    """Squared distances by one matrix product a block, and a selection."""
    memory, queries = task.memory, task.queries
    squares = np.einsum("nd,nd->n", memory, memory)
    rows = np.empty((len(queries), task.k), np.int64)
    distances = np.empty((len(queries), task.k), np.float32)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        block = queries[start : start + _QUERIES_AT_ONCE]
        products = block @ memory.T
        products *= -2
        products += squares
        nearest = np.argpartition(products, task.k - 1, axis=1)[:, : task.k]
        found = np.take_along_axis(products, nearest, axis=1) + np.einsum("qd,qd->q", block, block)[:, None]
        rows[start : start + len(block)] = nearest
        distances[start : start + len(block)] = np.sqrt(np.maximum(found, 0))
    return rows, distances


def search_faiss(task: Task) -> Found:
    """`IndexFlatL2`."""
    import faiss

    index = faiss.IndexFlatL2(task.memory.shape[1])
    index.add(task.memory)
    squares, rows = index.search(task.queries, task.k)
    return rows, np.sqrt(np.maximum(squares, 0))


def search_scikit_learn(task: Task) -> Found:
    """`NearestNeighbors` by brute force."""
    neighbors = peer("sklearn.neighbors").NearestNeighbors(n_neighbors=task.k, algorithm="brute")
    distances, rows = neighbors.fit(task.memory).kneighbors(task.queries)
    return rows, distances


def search_usearch(task: Task) -> Found:
    """`usearch.index.search`, exact."""
    found = peer("usearch.index").search(task.memory, task.queries, task.k, metric="l2sq", exact=True)
    return found.keys.astype(np.int64), np.sqrt(found.distances)


def prepare_hnswlib(task: Task) -> None:
    """Build a graph."""
    n, d = task.memory.shape
    index = peer("hnswlib").Index("l2", d)
    index.init_index(n, M=32, ef_construction=200)
    index.add_items(task.memory)
    index.save_index(str(task.folder / "hnswlib.bin"))


def search_hnswlib(task: Task) -> Found:
    """Search the graph."""
    index = peer("hnswlib").Index("l2", task.queries.shape[1])
    index.load_index(str(task.folder / "hnswlib.bin"))
    index.set_ef(_HNSW_EF_SEARCH)
    rows, squares = index.knn_query(task.queries, task.k)
    return rows.astype(np.int64), np.sqrt(squares)


def prepare_scann(task: Task) -> None:
    """Build a tree of about √n leaves over codes of two dimensions each, as ScaNN's guide says."""
    n = len(task.memory)
    (task.folder / "scann").mkdir(exist_ok=True)
    builder = peer("scann").scann_ops_pybind.builder(task.memory, task.k, "squared_l2")
    builder.tree(num_leaves=2 * round(n**0.5), num_leaves_to_search=_SCANN_LEAVES_TO_SEARCH,
                 training_sample_size=min(n, 250_000))  # fmt: skip
    builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_SCANN_REORDER).build().serialize(
        str(task.folder / "scann")
    )


def search_scann(task: Task) -> Found:
    """Search the tree."""
    index = peer("scann").scann_ops_pybind.load_searcher(str(task.folder / "scann"))
    rows, squares = index.search_batched_parallel(task.queries)
    return rows.astype(np.int64), np.sqrt(np.maximum(squares, 0))


def prepare_autofaiss(task: Task) -> None:
    """Let autofaiss choose and tune an index."""
    import faiss

    # Kept in memory: with numpy 2 it cannot write its own report of what it chose.
    index, chosen = peer("autofaiss").build_index(
        task.memory,
        save_on_disk=False,
        metric_type="l2",
        max_index_memory_usage="1G",
        current_memory_available="4G",
        verbose=40,
    )
    faiss.write_index(index, str(task.folder / "autofaiss.index"))
    (task.folder / "autofaiss.txt").write_text(chosen["index_param"])


def search_autofaiss(task: Task) -> Found:
    """Search what it chose, at the effort it chose."""
    import faiss

    index = faiss.read_index(str(task.folder / "autofaiss.index"))
    faiss.ParameterSpace().set_index_parameters(index, (task.folder / "autofaiss.txt").read_text())
    squares, rows = index.search(task.queries, task.k)
    return rows, np.sqrt(np.maximum(squares, 0))


PEERS = {
    "numpy": Peer("numpy", True, search_numpy),
    "faiss flat": Peer("faiss", True, search_faiss),
    "scikit-learn": Peer("sklearn", True, search_scikit_learn),
    "scikit-learn regressor": Peer("sklearn", True, search_scikit_learn),
    "usearch exact": Peer("usearch", True, search_usearch),
    "hnswlib": Peer("hnswlib", False, search_hnswlib, prepare_hnswlib),
    "ScaNN": Peer("scann", False, search_scann, prepare_scann),
    "autofaiss": Peer("autofaiss", False, search_autofaiss, prepare_autofaiss),
}


def bare_search(task: Task) -> None:
    """Load the arrays and search them, no more: what nobody who uses faiss can do without."""
    import faiss

    index = faiss.IndexFlatL2(task.memory.shape[1])
    index.add(task.memory)
    index.search(task.queries, task.k)


def predict(task: Task, search: Callable[[Task], Found]) -> None:
    """Search, mix and write."""
    rows, distances = search(task)
    weights = task.weights(distances)
    weights /= weights.sum(axis=1, keepdims=True)
    scores = network_scores(task)
    for rank in range(task.k):
        scores += weights[:, rank, None] * task.residuals[rows[:, rank]]
    write(task, scores, rows=rows, distances=distances)


def predict_by_regression(task: Task) -> None:
    """`KNeighborsRegressor` on the residuals: search and mixing in one."""
    regressor = peer("sklearn.neighbors").KNeighborsRegressor(
        n_neighbors=task.k, algorithm="brute", weights=task.weights
    )
    write(task, network_scores(task) + regressor.fit(task.memory, task.residuals).predict(task.queries))


def network_scores(task: Task) -> NDArray[np.float32]:
    """Compute the softmax of the logits."""
    scores = task.logits / np.float32(task.temperature)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def write(task: Task, scores: NDArray[Any], **more: Any) -> None:
    """Write the result beside the arrays."""
    np.savez(task.folder / "result.npz", scores=scores, predicted=scores.argmax(axis=1), **more)


def main() -> None:
    """Do what was asked; print nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*PEERS, "bare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    given = parser.parse_args()
    task = Task(given.folder)
    if given.name == "bare":
        bare_search(task)
    elif given.prepare:
        prepare = PEERS[given.name].prepare
        if prepare is not None:
            prepare(task)
    elif given.name == "scikit-learn regressor":
        predict_by_regression(task)
    else:
        predict(task, PEERS[given.name].search)


if __name__ == "__main__":
    main()
