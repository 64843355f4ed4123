"""The one import of torch, turned into a clear error where the optional package is not installed."""

from __future__ import annotations

from resmem_cli.errors import MissingExtraError

try:
    import torch
except ImportError as error:
    raise MissingExtraError(
        f"reading torch files and running networks needs torch ({error})",
        remedy="pip install 'resmem-cli[torch]'",
    ) from error

__all__ = ["torch"]
