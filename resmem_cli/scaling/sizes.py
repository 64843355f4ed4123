"""What is planned for: the size of a memory, the machines, and the sizes known by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resmem_cli.errors import UsageError
from resmem_cli.indexes.base import index_kinds
from resmem_cli.indexes.plan import EXACT_SIZE, FILE, PRODUCTS
from resmem_cli.memory_size import memory_text
from resmem_cli.types import StorageType

DEFAULT_TOP = 128
"""Entries that are kept of each row's logits and residuals where there are many classes."""

_MANY_CLASSES = 4096
_TOP_SCORES = 10
_UNITS = "KMGT"
_MOST = 1 << 62
_MOST_ROWS, _MOST_DIMENSIONS, _MOST_CLASSES = 1 << 50, 1 << 16, (1 << 31) - 1


@dataclass(frozen=True)
class MemorySize:
    """A memory, and what is asked of it.

    Attributes
    ----------
    rows, dimensions, classes : int
        n, d and C.
    k : int
        Neighbours of a query.
    queries : int
        How many are predicted.
    top : int or None
        Entries kept of each row's logits and residuals; None for all of them.
    top_scores : int or None
        Scores kept of each prediction; None for all.
    storage : StorageType
        Of the embeddings and of logits that are kept whole.
    kind : str
        Of the index.
    parameters : mapping
        Of the kind; what is missing is as the kind chooses.
    """

    rows: int
    dimensions: int
    classes: int
    k: int = 53
    queries: int = 10_000
    top: int | None = None
    top_scores: int | None = None
    storage: StorageType = StorageType.FLOAT32
    kind: str = "exact"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the embeddings."""
        return 2 if self.storage == StorageType.FLOAT16 else 4

    def check(self) -> None:
        """Raise `UsageError` for what no memory can be, and for parameters that are not the kind's."""
        for name, value, most in (
            ("--rows", self.rows, _MOST_ROWS),
            ("--dimensions", self.dimensions, _MOST_DIMENSIONS),
            ("--classes", self.classes, _MOST_CLASSES),
            ("-k", self.k, _MOST_ROWS),
            ("--queries", self.queries, _MOST_ROWS),
        ):
            _check_range(name, value, 1, most)
        for name, kept in (("--top", self.top), ("--top-scores", self.top_scores)):
            if kept is not None:
                _check_range(name, kept, 1, self.classes)
        kinds = {name: kind for name, kind in index_kinds().items() if name != "factory"}
        if self.kind not in kinds:
            raise UsageError(
                "no kind of index that can be planned",
                expected=f"one of {', '.join(kinds)}",
                found=self.kind,
            )
        kinds[self.kind].check_parameters(self.parameters, n=self.rows, d=self.dimensions)


@dataclass(frozen=True)
class Machines:
    """Machines of one kind, with storage that all of them see.

    Attributes
    ----------
    count : int
    memory, disk : int
        Bytes of each; what all disks hold together is the shared storage.
    cores : int
        Of each.
    disk_bandwidth, network_bandwidth, shared_bandwidth : float
        Bytes a second: of one machine to the storage, of one machine to the others, and of the storage to
        all of them.
    embed_rate : float or None
        Floating point operations a second of one machine when it embeds; None for what its cores do in
        products of large matrices.
    task_seconds : float
        What a task is to take.
    hours : float
        What a step is to be done in.
    """

    count: int = 1
    memory: int = 8 << 30
    disk: int = 4 << 40
    cores: int = 16
    disk_bandwidth: float = FILE
    network_bandwidth: float = 1.25e9
    shared_bandwidth: float = 10e9
    embed_rate: float | None = None
    task_seconds: float = 300.0
    hours: float = 24.0

    def check(self) -> None:
        """Raise `UsageError` for what no machines can be."""
        for name, value, most in (
            ("--machines", self.count, 1 << 20),
            ("--cores", self.cores, 1 << 16),
            ("--machine-memory", self.memory, _MOST),
            ("--machine-disk", self.disk, _MOST),
            ("--disk-bandwidth", self.disk_bandwidth, _MOST),
            ("--network-bandwidth", self.network_bandwidth, _MOST),
            ("--shared-bandwidth", self.shared_bandwidth, _MOST),
        ):
            _check_range(name, value, 1, most)
        for name, positive in (("--task-minutes", self.task_seconds), ("--hours", self.hours)):
            if not (math.isfinite(positive) and positive > 0):
                raise UsageError(f"{name} out of range", expected="above 0", found=f"{positive:g}")

    @property
    def product_rate(self) -> float:
        """Floating point operations a second of one machine in products of large matrices."""
        return PRODUCTS * self.cores

    @property
    def together(self) -> float:
        """Bytes a second that all machines read and write together."""
        return min(self.count * self.disk_bandwidth, self.shared_bandwidth)

    def text(self) -> str:
        """Say what they are."""
        count = "1 machine" if self.count == 1 else f"{self.count:,} machines"
        cores = "1 core" if self.cores == 1 else f"{self.cores:,} cores"
        return f"{count} of {cores}, {memory_text(self.memory)} of memory, {memory_text(self.disk)} of disk"


@dataclass(frozen=True)
class Preset:
    """A size known by name, with machines that suit it; see `MemorySize` and `Machines`."""

    rows: int
    dimensions: int
    classes: int
    k: int
    queries: int
    machines: int
    memory: int
    storage: StorageType


PRESETS = {
    "cifar100": Preset(50_000, 64, 100, 53, 10_000, 1, 8 << 30, StorageType.FLOAT32),
    "imagenet": Preset(1_281_167, 1280, 1000, 53, 50_000, 1, 8 << 30, StorageType.FLOAT32),
    "10m": Preset(10_000_000, 1024, 32_128, 50, 100_000, 1, 64 << 30, StorageType.FLOAT16),
    "100m": Preset(100_000_000, 1024, 32_128, 50, 100_000, 4, 64 << 30, StorageType.FLOAT16),
    "1.6g": Preset(1_600_000_000, 1024, 32_128, 50, 100_000, 64, 256 << 30, StorageType.FLOAT16),
}
"""CIFAR-100, ImageNet, and language models of 10 M, 100 M and 1.6 G tokens with T5's vocabulary."""


def chosen_size(
    name: str | None,
    *,
    rows: int | None = None,
    dimensions: int | None = None,
    classes: int | None = None,
    k: int | None = None,
    queries: int | None = None,
    top: int | str | None = None,
    storage: StorageType | None = None,
    kind: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> MemorySize:
    """Fill in what the user left open, from a size known by name or else by default.

    Parameters
    ----------
    name : str or None
        One of `PRESETS`; without, rows, dimensions and classes are needed.
    top : int, "all" or None
        None keeps 128 entries where there are more than 4,096 classes.
    kind : str or None
        None for exact search of up to 2³¹ numbers, and ``ivf-pq`` beyond, as `plan_index` chooses.
    rows, dimensions, classes, k, queries, storage, parameters
        As of `MemorySize`.

    Raises
    ------
    UsageError
        If there is no such name, or a size is missing.
    """
    preset = _preset(name)
    given = {"rows": rows, "dimensions": dimensions, "classes": classes}
    for number, value in given.items():
        if value is None:
            if preset is None:
                raise UsageError(
                    f"--{number} is missing",
                    expected="--rows, --dimensions and --classes, or a name",
                    remedy=f"names are {', '.join(PRESETS)}",
                )
            given[number] = getattr(preset, number)
    n, d, n_classes = (int(value or 0) for value in given.values())
    if top is None:
        top = DEFAULT_TOP if n_classes > _MANY_CLASSES else "all"
    return MemorySize(
        rows=n,
        dimensions=d,
        classes=n_classes,
        k=k if k is not None else preset.k if preset else MemorySize.k,
        queries=queries or (preset.queries if preset else MemorySize.queries),
        top=None if isinstance(top, str) else top,
        top_scores=None if n_classes <= _MANY_CLASSES else _TOP_SCORES,
        storage=storage or (preset.storage if preset else StorageType.FLOAT32),
        kind=kind or ("exact" if n * d <= EXACT_SIZE else "ivf-pq"),
        parameters=parameters or {},
    )


def chosen_machines(
    name: str | None, *, count: int | None = None, memory: int | None = None, **given: Any
) -> Machines:
    """Give the machines that suit a size known by name, where the user does not say.

    Parameters
    ----------
    name : str or None
        One of `PRESETS`.
    count, memory : int, optional
    **given
        What else `Machines` has; None for its defaults.
    """
    preset = _preset(name)
    return Machines(
        count=count if count is not None else preset.machines if preset else Machines.count,
        memory=memory or (preset.memory if preset else Machines.memory),
        **{field_name: value for field_name, value in given.items() if value is not None},
    )


def _preset(name: str | None) -> Preset | None:
    if name is None:
        return None
    if name.lower() not in PRESETS:
        raise UsageError("no size of that name", expected=f"one of {', '.join(PRESETS)}", found=name)
    return PRESETS[name.lower()]


def parse_count(text: str, option: str) -> int:
    """Read a number of things such as `50000`, `1.6G`, `32,128` or `120M`: K, M, G and T are powers of 1,000.

    Raises
    ------
    UsageError
        Naming the option, if it is no such number or not a whole one of at least 1.
    """
    match = re.fullmatch(rf"(\d[\d,]*(?:\.\d*)?)([{_UNITS}])?", text.strip().upper(), re.ASCII)
    number = 0.0
    if match:
        digits, unit = match.groups()
        number = float(digits.replace(",", "")) * 1000.0 ** (_UNITS.index(unit) + 1 if unit else 0)
    if not 1 <= number < _MOST or number != round(number):
        raise UsageError(
            f"{option}: no number of things", expected="a number such as 50000 or 1.6G", found=repr(text)
        )
    return round(number)


def count_text(count: float) -> str:
    """Write a large number with two or three digits, such as `1.6 G`."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS):
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {_UNITS[unit - 1]}" if unit else f"{count:.3g}"


def _check_range(name: str, value: float, least: int, most: int) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise UsageError(f"{name} out of range", expected=f"{least} to {most:,}", found=value)
