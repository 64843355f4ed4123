"""Trained networks from checkpoints, without running code that a file carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resmem_cli.errors import UsageError
from resmem_cli.models.architectures.base import architecture_label, convert_weights, make_network
from resmem_cli.models.extra import torch
from resmem_cli.models.loaders.base import open_checkpoint
from resmem_cli.models.weights import find_weights, fit_weights, unwrap


@dataclass(frozen=True)
class Network:
    """A trained network, ready to run.

    Attributes
    ----------
    module : torch.nn.Module
        In evaluation mode, on the CPU, its parameters not requiring gradients.
    digest : str
        SHA-256 of the checkpoint file, in hexadecimal; of a folder, that of the lines ``sha256sum``
        prints for its config and weight files, sorted by name.
    arch : str
        What made it: the architecture as given, without the folders of this machine; ``torchscript``,
        ``torch.export``, or the class of a pickled network.
    notices : tuple of str
        What did not fit and was left out, for the user to know.
    """

    module: torch.nn.Module
    digest: str
    arch: str
    notices: tuple[str, ...] = ()


def load_network(
    checkpoint: Path,
    *,
    arch: str | None,
    arch_args: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    strict: bool = True,
) -> Network:
    """Load a trained network.

    Parameters
    ----------
    checkpoint : pathlib.Path
        A safetensors file or a state dict saved by torch, bare or in the usual wrappings, whatever its
        suffix; these need `arch`. A folder in the Hugging Face layout, which describes its own
        architecture. With `trust_checkpoint` also TorchScript and torch.export archives and a whole
        pickled network; if `arch` is given all the same, only the weights of these are taken.
    arch : str or None
        See `make_network`.
    arch_args : mapping, optional
        Keyword arguments of the architecture's factory.
    trust_checkpoint : bool
        Accept a file that can run code when it is loaded.
    strict : bool
        Whether weights that are missing, left over or of another shape are an error, or notices.

    Raises
    ------
    MissingInputError
        If a file can't be opened.
    DataError
        If one is damaged, can run code and is not trusted, or holds weights that do not fit the network.
    UsageError
        If weights come without `arch`, or `arch` is not a factory of networks.
    MissingExtraError
        If a package is needed that is not installed.
    """
    source = open_checkpoint(checkpoint)
    digest = source.digest()
    saved = source.read(trusted=trust_checkpoint)
    arch = arch or source.arch
    if arch is None:
        if arch_args:
            raise UsageError("arguments for a network need --arch", field="--arch-args")
        network = _whole_network(saved, checkpoint)
        return Network(_ready(network), digest, _described(network))
    weights = find_weights(saved, checkpoint)
    # Weights that the checkpoint lacks keep the values made here: the same in every run.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = make_network(arch, arch_args=arch_args)
        weights = dict(convert_weights(arch, network, weights, checkpoint))
    notices = fit_weights(network, weights, checkpoint, strict=strict)
    return Network(_ready(network), digest, architecture_label(arch), notices)


def _whole_network(saved: object, path: Path) -> torch.nn.Module:
    network = unwrap(saved)
    if not isinstance(network, torch.nn.Module):
        find_weights(saved, path)
        raise UsageError(
            "holds weights only, not the network they belong to",
            file=path,
            remedy="give --arch, such as package.module:factory",
        )
    return network


def _ready(network: torch.nn.Module) -> torch.nn.Module:
    network = network.to("cpu").eval()
    for parameter in network.parameters():  # TorchScript's networks refuse `requires_grad_`
        parameter.requires_grad_(False)
    return network


def _described(network: torch.nn.Module) -> str:
    if isinstance(network, torch.jit.ScriptModule):
        return "torchscript"
    if isinstance(network, torch.export.UnflattenedModule):
        return "torch.export"
    return f"{type(network).__module__}:{type(network).__qualname__}"
