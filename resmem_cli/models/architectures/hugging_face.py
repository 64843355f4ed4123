"""Causal language models described by a local folder: ``transformers:FOLDER``."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resmem_cli.errors import DataError, MissingExtraError, UsageError
from resmem_cli.files import require_file
from resmem_cli.models.architectures.base import FIELD, architecture_source, refuse_lack_of_memory
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import reason

CONFIG = "config.json"
# Transformers can be told here to fetch compiled code by the name of a repository.
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def converted(network: torch.nn.Module, weights: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Read weights that were stored under other names, or in other pieces, than the network has.

    Checkpoints keep the layout of the first release of a model, which transformers changes while it
    loads: the head of GPT-NeoX is renamed, the experts of a mixture become one tensor. What it finds
    missing stays out, and what it can't use keeps its name, so that fitting finds the same.

    Raises
    ------
    DataError
        If transformers fails on them.
    """
    if weights.keys() <= network.state_dict().keys():
        return weights
    config: Any = network.config
    loader: Any = type(network)
    try:
        with _offline_and_quiet(), _without_progress_bar():
            loaded, found = loader.from_pretrained(
                None,
                config=config,
                state_dict=dict(weights),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except MemoryError:
        raise
    except Exception as error:
        refuse_lack_of_memory(error)
        raise DataError(f"its weights do not fit the network: {reason(error)}", file=path) from error
    missing = set(found["missing_keys"])
    result = {name: tensor for name, tensor in loaded.state_dict().items() if name not in missing}
    for name, shape, _ in found["mismatched_keys"]:
        result[name] = torch.empty(shape, device="meta")
    return result | {name: weights.get(name) for name in found["unexpected_keys"]}


@architecture_source("transformers", form="transformers:FOLDER", takes_folder=True, convert=converted)
def make_causal_model(folder: str, arch_args: Mapping[str, Any]) -> torch.nn.Module:
    """Make the causal language model of a folder's config, from the transformers package's own code.

    Nothing is fetched and no code of the folder runs. The network is made in float32 whatever type the
    config names, so that its weights keep their values, and returns no cache of keys and values.

    Parameters
    ----------
    folder : str
        A local folder with a ``config.json``; of its other files none is read here.
    arch_args : mapping
        Values that replace those of the config.

    Raises
    ------
    MissingInputError
        If the folder has no config.
    MissingExtraError
        If transformers is not installed, or can't be imported.
    DataError
        If the config names code of its own, quantised weights, or no causal model that transformers knows.
    UsageError
        If the config has no such values to replace.
    """
    if not folder:
        raise UsageError("names no folder", field=FIELD, expected="transformers:FOLDER")
    path = Path(folder) / CONFIG
    values = read_json_object(path)
    _check(values, path)
    _without_attention(values)
    with _offline_and_quiet():
        try:
            from transformers import CONFIG_MAPPING, AutoModelForCausalLM
        except Exception as error:
            raise MissingExtraError(
                f"{FIELD} transformers: needs transformers ({reason(error)})",
                remedy="pip install 'resmem-cli[transformers]'",
            ) from error
        kind = values["model_type"]
        if kind not in CONFIG_MAPPING:
            raise DataError(
                "the installed transformers has no such model", file=path, field="model_type", found=kind
            )
        try:
            config = CONFIG_MAPPING[kind].from_dict(values)
            _replace(config, arch_args)
            config.use_cache = False
            network: torch.nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False, dtype=torch.float32
            )
        except (UsageError, MemoryError):
            raise
        except Exception as error:
            refuse_lack_of_memory(error)
            given = f" with {dict(arch_args)}" if arch_args else ""
            raise DataError(
                f"describes no causal language model{given}: {reason(error)}", file=path
            ) from error
    return network


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    MissingInputError
        If the file can't be opened.
    DataError
        If it holds something else.
    """
    require_file(path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON: {error}", file=path) from error
    if not isinstance(value, dict):
        raise DataError("is not a JSON object", file=path, found=type(value).__name__)
    return value


def _check(values: Mapping[str, Any], path: Path) -> None:
    if "auto_map" in values:
        raise DataError(
            "names code of its own, which would run when the network is made",
            file=path,
            field="auto_map",
            remedy="only architectures of the transformers package are made; "
            "for others give --arch package.module:factory",
        )
    if values.get("quantization_config"):
        raise DataError(
            "describes quantised weights",
            file=path,
            field="quantization_config",
            remedy="save the network in float16, bfloat16 or float32",
        )
    if not isinstance(values.get("model_type"), str):
        raise DataError(
            "does not say which model it describes",
            file=path,
            field="model_type",
            expected="a name such as 'gpt2'",
            found=values.get("model_type"),
        )


def _without_attention(values: dict[str, Any]) -> None:
    for name in _ATTENTION:
        values.pop(name, None)
    for value in values.values():
        if isinstance(value, dict):
            _without_attention(value)


def _replace(config: Any, arch_args: Mapping[str, Any]) -> None:
    known = config.to_dict()
    for name, value in arch_args.items():
        if name not in known or name in ("auto_map", "quantization_config", "model_type", *_ATTENTION):
            raise UsageError(
                "the network's config has no such value to replace", field="--arch-args", found=name
            )
        setattr(config, name, value)


@contextmanager
def _offline_and_quiet() -> Iterator[None]:
    # Nothing below asks the network; the variables make that hold where the package is imported only now.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers import utils

    logging: Any = utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
