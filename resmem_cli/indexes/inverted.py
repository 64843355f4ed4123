"""What the inverted-list kinds share: rows are put in the list of their nearest centre, as short codes."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.indexes.approximate import MEASURED_BEFORE, ApproximateIndex, Candidates, Effort
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.clustering import Centres, default_lists, drawn_sample, learnt_centres, sample_blocks
from resmem_cli.indexes.list_coder import ListCoder
from resmem_cli.indexes.list_scanner import ListScanner
from resmem_cli.indexes.lists import Entries, ListLayout, ListWriter, checked_layout, stored_entries
from resmem_cli.indexes.parameters import chosen_parameters
from resmem_cli.indexes.quality import held_out_rows, tune
from resmem_cli.indexes.space import Space, check_rows, mean_row
from resmem_cli.indexes.stored import damaged, stored_numbers
from resmem_cli.rows import ArrayInMemory, RandomRows, as_rows

_MEMORY_SHARE = 4  # a block of rows takes one part in so many of the memory
_MOST_BLOCK_ROWS = 1 << 18
_LEAST_PROBED, _PROBED_SHARE = 16, 8  # lists, and of the lists one in so many, where nothing was measured
_MOST_STORED_LISTS = 1 << 24
_OUTGROWN = 4  # times as many lists would be made for the rows that there are now


class InvertedIndex(ApproximateIndex):
    """Rows in lists, of which a query visits the `nprobe` with the nearest centres.

    A kind says how rows are coded: its parameters, what is learnt for them, and faiss's class. Codes
    and row numbers are stored as faiss scans them, and scanned where they are.

    Parameters
    ----------
    vectors : (n, d)
        All rows of the memory.
    space : Space
        Where the searched rows live.
    settings : mapping
        The parameters, checked.

    Attributes
    ----------
    settings : dict
        `lists`, and the kind's own.
    codebook : (p, c, s) float32 or None
        What the kind learnt for its codes.
    """

    probe_name = "nprobe"
    default_rerank: ClassVar[int] = 1
    space_type: ClassVar[type[Space]] = Space
    codebook: NDArray[np.float32] | None = None
    centres: Centres
    entries: RandomRows
    layout: ListLayout
    _scanner: ListScanner | None = None

    def __init__(self, vectors: RandomRows, space: Space, settings: Mapping[str, Any]) -> None:
        self.vectors, self.space, self.settings = vectors, space, dict(settings)
        self.effort = self._unmeasured_effort()

    @classmethod
    def chosen_settings(cls, given: Mapping[str, Any] | None, *, n: int, d: int) -> dict[str, Any]:
        """Check the parameters of the kind, and choose those that are missing.

        Raises
        ------
        UsageError
            If one is unknown or out of range.
        """
        return dict(chosen_parameters(given, {"lists": (default_lists(n), 1, n)}, kind=cls.kind))

    @classmethod
    def check_parameters(cls, parameters: Mapping[str, Any], *, n: int, d: int) -> None:
        """Check the settings; see `Index.check_parameters`."""
        cls.chosen_settings(parameters, n=n, d=d)

    @classmethod
    def axes(cls, d: int, *, seed: int) -> NDArray[np.float64] | None:
        """Choose the coordinates in which rows are coded; None for those they have."""
        return None

    def learn(self, sample: NDArray[np.float32], lists: NDArray[np.int64], *, seed: int) -> None:
        """Learn what coding takes from a sample of rows, which may be overwritten, and their lists."""

    def fit_range(self, largest: float) -> None:
        """Make sure that values up to `largest` can be coded.

        Raises
        ------
        DataError
            If they can't.
        """

    @abstractmethod
    def empty_engine(self, quantizer: Any) -> Any:
        """Make faiss's index of this kind, without lists; it owns neither lists nor quantizer."""

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | RandomRows,
        *,
        parameters: Mapping[str, Any] | None = None,
        build: Build | None = None,
    ) -> Self:
        """Build the lists, reading all rows in blocks; see `Index.build`.

        The centres are learnt from a sample without the rows held out to measure quality.
        """
        vectors, build = as_rows(vectors), build or Build()
        index = cls.trained(vectors, parameters=parameters, build=build)
        index.fill(None, build=build)
        tune(index, held_out_rows(vectors.shape[0], build), build=build, own_present=True)
        return index

    @classmethod
    def trained(cls, vectors: RandomRows, *, parameters: Mapping[str, Any] | None, build: Build) -> Self:
        """Learn centres and codes, as `build` does first; the lists are still to be filled."""
        n, d = vectors.shape
        settings = cls.chosen_settings(parameters, n=n, d=d)
        mean = mean_row(vectors, build.metric, progress=build.progress)
        space = cls.space_type(build.metric, mean, cls.axes(d, seed=build.seed))
        held_out = held_out_rows(n, build)
        sample = drawn_sample(vectors, space, settings["lists"], left_out=held_out, build=build)
        if len(sample) < settings["lists"]:
            if "lists" in (parameters or {}):
                raise UsageError(
                    f"more lists of {cls.kind} than rows to learn them from",
                    expected=f"1 to {len(sample):,}",
                    found=f"{settings['lists']:,}",
                )
            settings["lists"] = len(sample)
        learnt = learnt_centres(sample, settings["lists"], seed=build.seed, progress=build.progress)
        centres = Centres(learnt)
        lists = np.empty(len(sample), np.int64)
        for block in sample_blocks(sample):
            lists[block] = centres.assign(sample[block])
        # Lists that no row of the sample is in would hardly ever have one.
        kept, lists = np.unique(lists, return_inverse=True)
        settings["lists"] = len(kept)
        index = cls(vectors, space, settings)
        index.centres = Centres(centres.rows[kept])
        index.learn(sample, lists, seed=build.seed)
        return index

    @classmethod
    def load(cls, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> Self:
        """Make the index from what was stored; the lists stay where they are."""
        index = cls.with_learnt(datasets["vectors"], datasets, parameters)
        index.load_measured(datasets, parameters)
        n, n_lists = index.shape[0], index.settings["lists"]
        if index.effort.probe > n_lists:
            raise damaged("parameters.effort.probe", "is more than there are lists")
        sizes, index.entries = datasets["lists/sizes"], datasets["lists/entries"]
        if sizes.shape != (n_lists,):
            raise damaged("lists/sizes", "is not one number for each list")
        index.layout = checked_layout(
            sizes.read(0, n_lists),
            n=n,
            n_bytes=index.entries.shape[0],
            code_bytes=index.code_bytes,
            interleaved=index.interleaved,
        )
        return index

    @classmethod
    def with_learnt(
        cls, vectors: RandomRows, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]
    ) -> Self:
        """Take over the centres and codes that were stored; the lists are still to be filled.

        Raises
        ------
        DataError
            If they can't be used for these vectors.
        """
        index = cls.__new__(cls)
        index.vectors = vectors
        index.load_space(datasets, parameters)
        index.space = cls.space_type(index.metric, index.space.mean, index.space.axes)
        n, d = index.shape
        names = cls.chosen_settings(None, n=n, d=d)
        n_lists = parameters.get("lists")
        # A shard can have more lists than rows.
        n = max(n, n_lists) if type(n_lists) is int and n_lists <= _MOST_STORED_LISTS else n
        try:
            index.settings = cls.chosen_settings({name: parameters.get(name) for name in names}, n=n, d=d)
        except UsageError as error:
            raise damaged("parameters", str(error)) from error
        if None in index.settings.values():
            raise damaged("parameters", "lack what was chosen when the index was built")
        index.centres = Centres(
            stored_numbers(datasets, "lists/centroids", (index.settings["lists"], index.space.dimension))
        )
        if index.codebook_shape is not None:
            index.codebook = stored_numbers(datasets, "lists/codebook", index.codebook_shape)
        index.effort = index._unmeasured_effort()
        return index

    def learnt(self) -> dict[str, RandomRows]:
        """Give what `with_learnt` takes: mean, axes, `lists/centroids` and `lists/codebook`."""
        stored: dict[str, RandomRows] = {
            "mean": ArrayInMemory(self.space.mean),
            "lists/centroids": ArrayInMemory(self.centres.rows),
        }
        if self.space.axes is not None:
            stored["axes"] = ArrayInMemory(self.space.axes)
        if self.codebook is not None:
            stored["lists/codebook"] = ArrayInMemory(self.codebook)
        return stored

    def datasets(self) -> dict[str, RandomRows]:
        """Give the common datasets, `lists/centroids`, `lists/sizes`, `lists/entries`, `lists/codebook`."""
        stored = {
            **self.common_datasets(),
            "lists/centroids": ArrayInMemory(self.centres.rows),
            "lists/sizes": ArrayInMemory(self.layout.sizes),
            "lists/entries": self.entries,
        }
        if self.codebook is not None:
            stored["lists/codebook"] = ArrayInMemory(self.codebook)
        return stored

    def parameters(self) -> dict[str, Any]:
        """Give the common parameters and the settings."""
        return {**self.common_parameters(), **self.settings}

    def grown(self, vectors: RandomRows, *, build: Build) -> tuple[Self, tuple[str, ...]]:
        """Keep the codes there are, and code the added rows; see `ApproximateIndex.grown`.

        The lists are those of a memory built from the same rows with the same centres.
        """
        index = type(self)(vectors, self.space, self.settings)
        index.centres, index.codebook = self.centres, self.codebook
        index.take_effort(self)
        index.fill(self, build=build)
        notices = [MEASURED_BEFORE] if self.curve else []
        n, n_lists = vectors.shape[0], self.settings["lists"]
        if self._suitable_lists(n) >= _OUTGROWN * n_lists:
            notices.append(
                f"{n_lists:,} lists are few for {n:,} rows: an index built anew would be searched faster"
            )
        return index, tuple(notices)

    def build_parameters(self, n: int) -> dict[str, Any]:
        """Give the settings; where n rows are few for so many lists, as many lists as suit them."""
        n_lists = self.settings["lists"]
        return {**self.settings, "lists": n_lists if 2 * n_lists <= n else self._suitable_lists(n)}

    def _suitable_lists(self, n: int) -> int:
        given = {name: value for name, value in self.settings.items() if name != "lists"}
        return int(self.chosen_settings(given, n=n, d=self.shape[1])["lists"])

    @property
    def codebook_shape(self) -> tuple[int, int, int] | None:
        """Shape of the codebook, for kinds that have one."""
        return None

    @property
    def interleaved(self) -> bool:
        """Whether the codes of 32 rows lie together, as `ListLayout` has it."""
        return False

    def queries_together(self, probe: int) -> int:
        """Count the queries, each visiting `probe` lists, that one core best searches together."""
        return sys.maxsize

    @property
    def probes(self) -> tuple[int, ...]:
        """1, 2, 3, 4, 6, 8, 12 and so on, and all lists."""
        n_lists = self.settings["lists"]
        powers = [1 << power for power in range(n_lists.bit_length())]
        between = [power + power // 2 for power in powers[1:]]
        return (*sorted(probe for probe in powers + between if probe < n_lists), n_lists)

    @property
    def code_bytes(self) -> int:
        """Bytes of one row's code."""
        return int(self.empty_engine(faiss.IndexFlatL2(self.space.dimension)).code_size)

    def candidates(self, searched_queries: NDArray[np.float32], count: int, *, probe: int) -> Candidates:
        """Compare each query with the codes of the `probe` lists whose centres are nearest."""
        rows, _, compared = self.nearest_codes(searched_queries, count, probe=probe)
        return rows, compared

    def ordered(self, searched_queries: NDArray[np.float32], count: int, *, probe: int) -> Candidates:
        """Give the candidates by (distance of their code, row)."""
        rows, squares, compared = self.nearest_codes(searched_queries, count, probe=probe)
        return np.take_along_axis(rows, np.lexsort((rows, squares), axis=1), axis=1), compared

    def nearest_codes(
        self, queries: NDArray[np.float32], count: int, *, probe: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """Give candidates as `candidates` does, with the squared distances of their codes."""
        if self._scanner is None:
            self._scanner = ListScanner(self.new_engine(), self.centres, self.entries, self.layout)
        return self._scanner.nearest(queries, count, probe=probe, together=self.queries_together(probe))

    def new_engine(self) -> Any:
        """Make faiss's index with the centres, and without lists."""
        quantizer = faiss.IndexFlatL2(self.space.dimension)
        quantizer.add(self.centres.rows)
        engine = self.empty_engine(quantizer)
        engine.is_trained = True
        return engine

    def fill(self, before: Self | None, *, build: Build) -> None:
        """Make the lists: those of an index before, and in them all rows that come after its rows."""
        n, first = self.shape[0], 0 if before is None else before.shape[0]
        coder = ListCoder(self.centres, block_rows=self.block_rows(build), build=build)
        largest = coder.assign(n - first, lambda block: self._searched(first, block))
        self.fit_range(largest)
        engine = self.new_engine()
        sizes = coder.sizes if before is None else coder.sizes + before.layout.sizes
        self.layout = ListLayout(sizes, engine.code_size, interleaved=self.interleaved)
        entries = build.scratch.array((self.layout.n_bytes,), np.uint8)
        writer = ListWriter(self.layout, entries)
        if before is not None:
            for entries_before in before.stored_entries(build):
                writer.append(*entries_before)
        coder.write(writer, engine, first, lambda block: self._searched(first, block))
        self.entries = ArrayInMemory(entries)

    def _unmeasured_effort(self) -> Effort:
        lists = self.settings["lists"]
        return Effort(min(lists, max(_LEAST_PROBED, lists // _PROBED_SHARE)), self.default_rerank)

    def _searched(self, first: int, block: slice) -> NDArray[np.float32]:
        """Give a block of the rows after the first ones, as they are searched."""
        rows = self.vectors.read(first + block.start, first + block.stop)
        check_rows(rows, self.metric, first=first + block.start)
        return self.space.searched(rows)

    def stored_entries(self, build: Build) -> Iterator[Entries]:
        """Give the lists, rows and codes of all rows, list by list."""
        return stored_entries(self.layout, self.entries, block_rows=self.block_rows(build))

    def block_rows(self, build: Build) -> int:
        """Count the rows whose searched and coded forms take no more than a block may."""
        row_bytes = 64 * self.space.dimension
        return max(1, min(_MOST_BLOCK_ROWS, build.memory // _MEMORY_SHARE // row_bytes))
