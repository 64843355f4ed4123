"""One shard's work, as it is sent to a worker: paths and parameters in, a few figures out."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.errors import ResmemError
from resmem_cli.scaling.sizes import MemorySize
from resmem_cli.threads import n_threads

_PACKAGES = ("resmem-cli", "numpy", "faiss-cpu", "h5py", "torch")

# A worker with several threads may be given several tasks, but a task uses all of a process: its cores, its
# memory, and settings of libraries.
_one_at_a_time = threading.Lock()


class VersionError(ResmemError):
    """A worker on which other versions are installed, whose answers could be others."""

    exit_code = 69


@dataclass(frozen=True)
class Task:
    """A stage's function on one shard.

    Attributes
    ----------
    name : str
        For people, such as ``shard 3 of 8``.
    function : str
        ``module:name`` of a stage.
    arguments : tuple
        Paths, as text.
    options : mapping
        Paths, and a frozen config.
    output : str
        What it writes, whole or not at all.
    step, size
        What it is in a plan, and of what memory; its own rows or queries are counted in what it writes.
    folder : str
        Where the command was given; what it names is looked for there, if the worker has such a folder.
    versions : mapping
        Those the client has, which the worker's have to equal.
    """

    name: str
    function: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    output: str
    step: str = ""
    size: MemorySize | None = None
    folder: str = field(default_factory=os.getcwd)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What became of a task.

    Attributes
    ----------
    task : Task
    seconds : float
        That it took.
    rows : int
        Of what it wrote.
    cores : int
        That it could use.
    worker : str
        Machine and process.
    memory : int
        The most memory that process ever had, in bytes, mapped files included.
    notices : tuple of str
        What the stage told.
    """

    task: Task
    seconds: float
    rows: int
    cores: int
    worker: str
    memory: int
    notices: tuple[str, ...]


def installed_versions() -> dict[str, str]:
    """Tell what is installed here, as far as answers depend on it."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run_task(task: Task, *, threads: int | None = None) -> Done:
    """Do a task in this process, on all of its threads.

    Parameters
    ----------
    task : Task
    threads : int, optional
        How many to use; None for those of the worker, or what `OMP_NUM_THREADS` says.

    Raises
    ------
    VersionError
        If other versions are installed here than where the task comes from.
    ResmemError
        As the stage does.
    """
    here = installed_versions()
    unlike = [name for name in task.versions if here.get(name) != task.versions[name]]
    if unlike:
        raise VersionError(
            f"{platform.node()}: other versions on a worker than here",
            expected=", ".join(f"{name} {task.versions[name]}" for name in unlike),
            found=", ".join(f"{name} {here.get(name, 'missing')}" for name in unlike),
            remedy="install the same on all machines",
        )
    module, name = task.function.split(":")
    stage = getattr(importlib.import_module(module), name)
    with _one_at_a_time:
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        if os.path.isdir(task.folder):
            os.chdir(task.folder)
        began = time.monotonic()
        result = stage(*task.arguments, output=Path(task.output), **task.options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    took = time.monotonic() - began
    with open_artifact(Path(task.output)) as written:
        rows = written.dimensions.get("n", written.dimensions.get("q", 0))
    worker = f"{platform.node()}/{os.getpid()}"
    return Done(task, took, rows, n_threads(), worker, peak, tuple(result.notices))
