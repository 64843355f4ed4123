"""A network and what it is to be run on, opened together, with what is said of both in the artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resmem_cli.arrays.embedding_arrays import open_input_arrays
from resmem_cli.arrays.texts import open_texts
from resmem_cli.arrays.token_arrays import TokenArrays, open_token_arrays
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.errors import DataError, UsageError
from resmem_cli.stages.embedding.batches import Batches, RowBatches, WindowBatches
from resmem_cli.stages.embedding.config import EmbedConfig, LanguageConfig
from resmem_cli.types import ImageLayout

if TYPE_CHECKING:
    from resmem_cli.models.capture import EmbeddingCapture
    from resmem_cli.models.checkpoint import Network
    from resmem_cli.models.inputs import ImagePreprocessing

_BATCH_ROWS = 256
_BATCH_WINDOWS = 16
_LANGUAGE_MODELS = ("transformer-lm", "transformers:")


class Inputs:
    """A network ready to run on batches, and where both come from; `open_inputs` builds it.

    Attributes
    ----------
    batches : Batches
        What the network is run on.
    files : tuple of pathlib.Path
        Every file that is read, but the checkpoint.
    notices : tuple of str
        What the user should know.
    records : list of InputRecord
        The lineage.
    """

    def __init__(
        self,
        network: Network,
        capture: EmbeddingCapture,
        batches: Batches,
        config: EmbedConfig,
        *,
        records: list[InputRecord],
        files: tuple[Path, ...],
        notices: tuple[str, ...],
        sources: Mapping[str, str],
        language: LanguageConfig | None,
        preprocessing: Mapping[str, Any] | None,
        batch_rows: int,
    ) -> None:
        self.batches = batches
        self.files = files
        self.notices = notices
        self.records = records
        self._network = network
        self._capture = capture
        self._config = config
        self._preprocessing = preprocessing
        self.parameters: dict[str, Any] = {
            "sources": dict(sources),
            "batch_rows": batch_rows,
            "arch_args": dict(config.arch_args or {}),
            "logits_layer": config.logits_layer,
            "dtype": config.dtype,
            "device": capture.device_name,
            "top": config.top,
            "window": language.window if language else None,
            "stride": language.step if language else None,
        }

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.batches.slices[-1].stop)

    @property
    def encoder(self) -> dict[str, Any]:
        """What made the embeddings: they can be compared with those of an equal encoder only."""
        return {
            "checkpoint_digest": self._network.digest,
            "arch": self._network.arch,
            "layer": self._capture.layer_name,
            "pool": self._config.pool,
            "preprocessing": self._preprocessing,
        }

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything the rows' bytes depend on: an interrupted run of another fingerprint is no use."""
        return {
            **self.parameters,
            "encoder": self.encoder | {"layer": self._config.layer},
            "storage": self._config.storage,
            "inputs": [dataclasses.asdict(record) for record in self.records],
            "n": self.n,
            "torch": version("torch"),
        }

    def summary(self) -> dict[str, Any]:
        """Say what ran and where."""
        return {
            "arch": self._network.arch,
            "layer": self._capture.layer_name,
            "pool": self._config.pool,
            "device": self._capture.device_name,
            "dtype": self._config.dtype,
        }

    def layers(self) -> list[dict[str, Any]]:
        """Run the first batch and describe every layer."""
        prepared = self.batches.prepare(0)
        inputs = prepared[1] if isinstance(prepared, tuple) else prepared
        return [
            {
                "name": layer.name,
                "kind": layer.kind,
                "output_shapes": [list(shape) for shape in layer.shapes],
                "calls": layer.calls,
                "role": "embedding" if layer.is_default else "logits" if layer.is_logits else None,
            }
            for layer in self._capture.layers(inputs)
        ]


@contextmanager
def open_inputs(checkpoint: Path, inputs: Path, spool: Path, config: EmbedConfig) -> Iterator[Inputs]:
    """Load the network and open its inputs.

    Parameters
    ----------
    checkpoint, inputs : pathlib.Path
        As for `embed`.
    spool : pathlib.Path
        A folder for token ids that are not in memory.
    config : EmbedConfig
        As for `embed`.

    Raises
    ------
    ResmemError
        As for `embed`.
    """
    from resmem_cli.models.capture import EmbeddingCapture
    from resmem_cli.models.checkpoint import load_network

    network = load_network(
        checkpoint,
        arch=config.arch,
        arch_args=config.arch_args,
        trust_checkpoint=config.trust_checkpoint,
        strict=config.strict,
    )
    language = config.language
    if language is None and network.arch.startswith(_LANGUAGE_MODELS):
        language = LanguageConfig()
    capture = EmbeddingCapture(
        network,
        layer=config.layer,
        logits_layer=config.logits_layer,
        pool=config.pool,
        device=config.device,
        dtype=config.dtype,
        tokens=language is not None,
    )
    record = InputRecord("checkpoint", checkpoint.resolve().name, "torch", network.digest)
    with ExitStack() as stack:
        if language is None:
            yield _rows(network, capture, inputs, config, record, stack)
        else:
            yield _windows(network, capture, inputs, config, record, stack, language, spool)


def _rows(
    network: Network,
    capture: EmbeddingCapture,
    path: Path,
    config: EmbedConfig,
    checkpoint: InputRecord,
    stack: ExitStack,
) -> Inputs:
    images = config.images
    source = open_input_arrays(path, config.arrays, image_size=images.size, gray=images.gray)
    stack.callback(source.close)
    preprocessing = _preprocessing(config, folder=path.is_dir())
    batch_rows = config.batch_rows or _BATCH_ROWS
    return Inputs(
        network,
        capture,
        RowBatches(
            source, capture, path=path, batch_rows=batch_rows, preprocessing=preprocessing, top=config.top
        ),
        config,
        records=[
            checkpoint,
            *(InputRecord(role, name, "arrays", digest) for role, name, digest in source.digests),
        ],
        files=source.files,
        notices=(*network.notices, *source.notices),
        sources=source.sources,
        language=None,
        preprocessing=None
        if preprocessing is None
        else {
            "mean": list(images.mean),
            "std": list(images.std),
            "image_size": images.size,
            "gray": images.gray,
        },
        batch_rows=batch_rows,
    )


def _windows(
    network: Network,
    capture: EmbeddingCapture,
    path: Path,
    config: EmbedConfig,
    checkpoint: InputRecord,
    stack: ExitStack,
    language: LanguageConfig,
    spool: Path,
) -> Inputs:
    from resmem_cli.models.windows import plan_windows

    if config.images.mean or config.images.std or config.pool is not None:
        raise UsageError(
            "--mean, --std and --pool are not for language models, whose every token is a row",
            remedy="leave them out",
        )
    tokens: TokenArrays
    if language.tokenizer is not None:
        tokens = open_texts(path, tokenizer=language.tokenizer, glob=language.glob, spool=spool)
    else:
        tokens = open_token_arrays(path, config.arrays, pad_id=language.pad_id)
    stack.enter_context(tokens)
    plan = plan_windows(tokens.starts, tokens.lengths, window=language.window, stride=language.step)
    if plan.n_rows == 0:
        raise DataError("no token has a next one", file=path, expected="documents of two tokens or more")
    batch_windows = config.batch_rows or _BATCH_WINDOWS
    records = [InputRecord(role, name, "arrays", digest) for role, name, digest in tokens.digests]
    tokenizer = next((record.digest for record in records if record.role == "tokenizer"), None)
    return Inputs(
        network,
        capture,
        WindowBatches(tokens, plan, capture, path=path, batch_windows=batch_windows, top=config.top),
        config,
        records=[checkpoint, *records],
        files=tokens.files,
        notices=(*network.notices, *tokens.notices),
        sources=tokens.sources,
        language=language,
        preprocessing=None if tokenizer is None else {"tokenizer": tokenizer},
        batch_rows=batch_windows,
    )


def _preprocessing(config: EmbedConfig, *, folder: bool) -> ImagePreprocessing | None:
    from resmem_cli.models.inputs import ImagePreprocessing

    images = config.images
    if bool(images.mean) != bool(images.std):
        raise UsageError("--mean and --std go together", remedy="give both, in units of pixels in [0, 1]")
    # Images are read from a folder with the channels last.
    layout = ImageLayout.NHWC if folder else images.layout
    return ImagePreprocessing(images.mean, images.std, layout) if images.mean else None
