"""Trained networks from checkpoint files, without running code that a file carries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resmem_cli.errors import DataError, MissingExtraError, UsageError
from resmem_cli.files import file_digest
from resmem_cli.models.extra import torch
from resmem_cli.models.factory import make_current_folder_importable, make_network
from resmem_cli.models.torchfile import (
    PickleCodeError,
    TorchFileKind,
    read_torch_file,
    reason,
    torch_file_kind,
)
from resmem_cli.models.weights import find_weights, fit_weights, unwrap

_TRUST = (
    "if you made it or trust who did, give --trust-checkpoint; "
    "else have its weights saved alone: torch.save(network.state_dict(), path), and give --arch"
)


@dataclass(frozen=True)
class Network:
    """A trained network, ready to run.

    Attributes
    ----------
    module : torch.nn.Module
        In evaluation mode, on the CPU.
    digest : str
        SHA-256 of the checkpoint file, in hexadecimal.
    arch : str
        What made it: the factory as given, ``torchscript``, or the class of a pickled network.
    """

    module: torch.nn.Module
    digest: str
    arch: str


def load_network(
    checkpoint: Path,
    *,
    arch: str | None,
    arch_args: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> Network:
    """Load a trained network.

    Parameters
    ----------
    checkpoint : pathlib.Path
        A ``.safetensors`` file or a state dict saved by torch, bare or in the usual wrappings; these need
        `arch`. With `trust_checkpoint` also TorchScript and a whole pickled network; if `arch` is given
        all the same, only the weights of these are taken.
    arch : str or None
        ``package.module:factory``, called to make the network that takes the weights; the current folder
        is importable.
    arch_args : mapping, optional
        Keyword arguments of the factory.
    trust_checkpoint : bool
        Accept a file that can run code when it is loaded.

    Raises
    ------
    MissingInputError
        If the file can't be opened.
    DataError
        If it is damaged, can run code and is not trusted, or holds weights that do not fit the network.
    UsageError
        If weights come without `arch`, or `arch` is not a factory of networks.
    MissingExtraError
        If the file is ``.safetensors`` and that package is not installed.
    """
    digest = file_digest(checkpoint)
    saved = _read(checkpoint, trust_checkpoint=trust_checkpoint)
    if arch is None:
        network = unwrap(saved)
        if not isinstance(network, torch.nn.Module):
            find_weights(saved, checkpoint)
            raise UsageError(
                "holds weights only, not the network they belong to",
                file=checkpoint,
                remedy="give --arch package.module:factory",
            )
        if arch_args:
            raise UsageError("arguments for a network need --arch", field="--arch-args")
        arch = _described(network)
    else:
        network = make_network(arch, arch_args=arch_args)
        fit_weights(network, find_weights(saved, checkpoint), checkpoint)
    return Network(network.to("cpu").eval(), digest, arch)


def _read(path: Path, *, trust_checkpoint: bool) -> object:
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    kind = torch_file_kind(path)
    if kind is TorchFileKind.EXPORT:
        raise DataError(
            "is a torch.export archive, whose layers can't be told apart any more",
            file=path,
            remedy="save the weights with torch.save(network.state_dict(), path), and give --arch",
        )
    if kind is TorchFileKind.TORCHSCRIPT:
        if not trust_checkpoint:
            raise DataError(
                "is a TorchScript archive: a program, which can run code when it is loaded",
                file=path,
                remedy=_TRUST,
            )
        return _read_torchscript(path)
    try:
        return read_torch_file(path)
    except PickleCodeError as error:
        if not trust_checkpoint:
            raise DataError(
                "is more than tensors: it needs pickle code to load, which can run anything on this machine",
                file=path,
                found=error.found,
                remedy=_TRUST,
            ) from error
    return _read_trusted_pickle(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError(
            "needs safetensors", file=path, remedy="pip install 'resmem-cli[torch]'"
        ) from error
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        raise DataError(f"is truncated or damaged: {reason(error)}", file=path) from error
    return weights


def _read_torchscript(path: Path) -> torch.nn.Module:
    try:
        with warnings.catch_warnings():
            # torch deprecates TorchScript; people's archives do not go away for that.
            warnings.filterwarnings("ignore", r".torch\.jit\.load. is deprecated", DeprecationWarning)
            network: torch.nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location="cpu"
            )
    except (RuntimeError, ValueError) as error:
        raise DataError(f"is not a readable TorchScript archive: {reason(error)}", file=path) from error
    return network


def _read_trusted_pickle(path: Path) -> object:
    # A pickled network names its class, which mostly lives in a module beside it.
    make_current_folder_importable()
    try:
        return torch.load(str(path), map_location="cpu", weights_only=False)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            f"can't be unpickled: {reason(error)}",
            file=path,
            remedy="run it where the modules it names can be imported",
        ) from error


def _described(network: torch.nn.Module) -> str:
    if isinstance(network, torch.jit.ScriptModule):
        return "torchscript"
    return f"{type(network).__module__}:{type(network).__qualname__}"
