"""Vision networks of the timm package: ``timm:NAME``."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping
from typing import Any

from resmem_cli.errors import MissingExtraError, UsageError
from resmem_cli.models.architectures.base import FIELD, architecture_source, call_factory
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import reason

# Each of them makes timm load weights, from the network or from a file that was not checked.
_LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path")


@architecture_source("timm", form="timm:NAME")
def make_timm_model(name: str, arch_args: Mapping[str, Any]) -> torch.nn.Module:
    """Make a network of timm's by its name, without the weights timm could download.

    Parameters
    ----------
    name : str
        One of ``timm.list_models()``.
    arch_args : mapping
        Keyword arguments of `timm.create_model`.

    Raises
    ------
    MissingExtraError
        If timm is not installed, or can't be imported.
    UsageError
        If timm has no such network, can't make it with these arguments, or would load weights.
    """
    if loading := [argument for argument in _LOADING if arch_args.get(argument)]:
        raise UsageError(
            f"'{loading[0]}' would load other weights than the checkpoint's",
            field="--arch-args",
            remedy="leave it out: the weights come from the checkpoint file",
        )
    if not name or {":", "/"} & set(name):
        raise UsageError(
            "is not the name of a network of timm's: one of its hubs or folders is never asked",
            field=FIELD,
            found=f"timm:{name}",
            remedy="for instance timm:resnet18",
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = _import_timm()
        if not timm.is_model(name.partition(".")[0]):
            near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
            raise UsageError(
                "timm has no such network",
                field=FIELD,
                found=name,
                remedy=f"it has {', '.join(near)}" if near else "timm.list_models() lists what it has",
            )
        return call_factory(
            f"timm:{name}",
            lambda **arguments: timm.create_model(name, **arguments, pretrained=False),
            arch_args={key: value for key, value in arch_args.items() if key not in _LOADING},
        )


def _import_timm() -> Any:
    try:
        import timm
    except Exception as error:
        # A torchvision built for another torch ends its import with a RuntimeError.
        raise MissingExtraError(
            f"{FIELD} timm: needs timm ({reason(error)})", remedy="pip install 'resmem-cli[timm]'"
        ) from error
    return timm
