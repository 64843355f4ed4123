"""Files written by torch: which kind one is, and reading it without running code it carries."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from enum import StrEnum
from pathlib import Path

from resmem_cli.errors import DataError, MissingInputError, ResourceError
from resmem_cli.models.extra import torch

# What torch's RuntimeError says when memory runs out on the CPU.
ALLOCATION_FAILED = "can't allocate memory"


class TorchFileKind(StrEnum):
    """How torch wrote a file."""

    ZIP = "zip"
    LEGACY = "legacy"
    TORCHSCRIPT = "torchscript"
    EXPORT = "export"

    @property
    def writer(self) -> str:
        """The torch function that writes such a file."""
        return {self.TORCHSCRIPT: "torch.jit.save", self.EXPORT: "torch.export.save"}.get(self, "torch.save")


class PickleCodeError(DataError):
    """A pickle that can't be read without running code it names."""


def torch_file_kind(path: Path) -> TorchFileKind:
    """Tell how torch wrote a file, from its archive listing alone.

    Parameters
    ----------
    path : pathlib.Path
        Any file; one that is not a zip archive counts as `TorchFileKind.LEGACY`, whatever it holds.

    Raises
    ------
    MissingInputError
        If the file can't be opened.
    DataError
        If its archive listing is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            # is_zipfile hides why a file can't be read.
            path.open("rb").close()
            return TorchFileKind.LEGACY
        with zipfile.ZipFile(path) as archive:
            # Every member lies in one folder, named after the file as it was first saved.
            members = {name.partition("/")[2] for name in archive.namelist()}
    except OSError as error:
        raise _not_opened(path, error) from error
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        return TorchFileKind.TORCHSCRIPT
    if "archive_format" in members or "models/model.json" in members:
        return TorchFileKind.EXPORT
    return TorchFileKind.ZIP


def read_torch_file(path: Path) -> object:
    """Read what `torch.save` wrote, on the CPU, running no code from the file.

    The tensors of a zip-format file are mapped from disk (copy on write), not read.

    Parameters
    ----------
    path : pathlib.Path
        The file. TorchScript and `torch.export` archives are not read here: look at
        `torch_file_kind` first.

    Returns
    -------
    object
        Tensors, and containers of tensors, numbers and strings.

    Raises
    ------
    MissingInputError
        If the file can't be opened.
    PickleCodeError
        If reading needs code that the file names: a whole pickled module, numpy arrays, anything else.
    DataError
        If the file is truncated, damaged or not torch's.
    ResourceError
        If memory runs out.
    """
    kind = torch_file_kind(path)
    try:
        with warnings.catch_warnings():
            # Pickle protocols other than 2 draw a warning before they work or raise.
            warnings.simplefilter("ignore")
            return torch.load(
                str(path), map_location="cpu", weights_only=True, mmap=kind is TorchFileKind.ZIP
            )
    except OSError as error:
        # A truncated archive is taken for the older format, whose reader seeks to where nothing can be.
        if error.errno == errno.EINVAL:
            raise _damaged(path, error) from error
        raise _not_opened(path, error) from error
    except pickle.UnpicklingError as error:
        if kind is TorchFileKind.ZIP or _starts_as_pickle(path):
            named = re.search(r"GLOBAL (\S+)", str(error))
            raise PickleCodeError(
                "needs pickle code to load, which can do anything to this machine, and is refused",
                file=path,
                found=named.group(1) if named else None,
                remedy="where it was made, save its tensors instead: torch.save({'name': tensor}, path)",
            ) from error
        raise _damaged(path, error) from error
    except MemoryError:
        raise
    except Exception as error:
        # On damaged bytes torch's reader raises whatever the bytes led it to: RuntimeError, EOFError,
        # KeyError, UnicodeDecodeError, AttributeError, struct.error.
        if ALLOCATION_FAILED in str(error):
            raise ResourceError("not enough memory to read the file", file=path) from error
        raise _damaged(path, error) from error


def reason(error: BaseException) -> str:
    """Tell an exception in one line: its type and the first line of its message, or two that are one."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    if not lines:
        return name
    told = lines[0].partition(" This is an internal miniz error")[0]
    if told.endswith(":") and len(lines) > 1:
        told += f" {lines[1].strip()}"
    return f"{name}: {told}"


def _starts_as_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == pickle.PROTO[0] and head[1] <= pickle.HIGHEST_PROTOCOL


def _not_opened(path: Path, error: OSError) -> MissingInputError:
    return MissingInputError(f"can't be opened: {error.strerror or error}", file=path)


def _damaged(path: Path, error: BaseException) -> DataError:
    # torch explains a failed pickle in paragraphs about an option that is none of the user's.
    why = "not a readable pickle" if isinstance(error, pickle.UnpicklingError) else reason(error)
    return DataError(
        f"is truncated, damaged, or not a file that torch.save wrote: {why}",
        file=path,
        remedy="copy or export it again",
    )
