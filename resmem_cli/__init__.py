"""Residual memorization (Yang et al. 2023) on saved arrays: add an explicit memory to a trained model.

Arrays in, arrays out: `ResidualMemory`, or its parts `compute_residuals`, `ExactIndex`,
`neighbor_weights`, `predict_from_neighbors` and `compare`. Paths in, artifacts out: a function for each
command, such as `residualize`, `index` and `predict`, with its frozen config.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resmem_cli.version import __version__

if TYPE_CHECKING:
    from resmem_cli.artifacts.reader import open_artifact
    from resmem_cli.calibration import fit_softening, fit_temperature, to_probabilities
    from resmem_cli.indexes.base import Build, Neighbors, index_kinds
    from resmem_cli.indexes.exact import ExactIndex
    from resmem_cli.memory import DenseMemory, TopMemory, neighbor_votes
    from resmem_cli.metrics import Gain, compare
    from resmem_cli.prediction import Prediction, predict_from_neighbors
    from resmem_cli.quality import Outcomes, Quality, outcomes, summarize
    from resmem_cli.residual_memory import ResidualMemory
    from resmem_cli.residuals import (
        TopLogits,
        TopResiduals,
        compute_residuals,
        compute_top_residuals,
        softmax,
    )
    from resmem_cli.scaling.sizes import Machines, MemorySize
    from resmem_cli.settings import Softening
    from resmem_cli.stages.analyze import AnalyzeConfig, analyze
    from resmem_cli.stages.embed import embed, list_layers
    from resmem_cli.stages.embedding.config import EmbedConfig, ImageConfig, LanguageConfig
    from resmem_cli.stages.export import export
    from resmem_cli.stages.import_arrays import ImportConfig, import_arrays
    from resmem_cli.stages.index import index
    from resmem_cli.stages.index_config import IndexConfig
    from resmem_cli.stages.info import info
    from resmem_cli.stages.plan import PlanConfig, SimulationConfig, plan_memory
    from resmem_cli.stages.predict import predict
    from resmem_cli.stages.predict_config import PredictConfig
    from resmem_cli.stages.reproduce.cifar import CifarConfig, reproduce_cifar
    from resmem_cli.stages.reproduce.image_memory import MemorySettings
    from resmem_cli.stages.reproduce.image_studies.base import ImageStudyConfig
    from resmem_cli.stages.reproduce.imagenet import ImagenetConfig, reproduce_imagenet
    from resmem_cli.stages.reproduce.imagenet_size import ImagenetSizeConfig, imagenet_size
    from resmem_cli.stages.reproduce.language import reproduce_language
    from resmem_cli.stages.reproduce.language_config import LanguageStudyConfig
    from resmem_cli.stages.residualize import ResidualizeConfig, residualize
    from resmem_cli.stages.searching import SearchConfig
    from resmem_cli.stages.sources import open_embeddings
    from resmem_cli.stages.theory import TheoryConfig, theory
    from resmem_cli.stages.tune import tune
    from resmem_cli.stages.tune_config import TuneConfig
    from resmem_cli.stages.update import UpdateConfig, update
    from resmem_cli.stages.verify import verify
    from resmem_cli.truncation import Truncation
    from resmem_cli.types import (
        ArraySelection,
        ComputeType,
        ImageLayout,
        Method,
        Metric,
        Pooling,
        ProbabilityMethod,
        ResidualSpace,
        StageResult,
        StorageType,
    )
    from resmem_cli.weights import default_sigma, neighbor_weights

# Where each public name lives. They are imported when first used, so that `resmem --help` loads no numpy.
_HOMES = {
    "AnalyzeConfig": "stages.analyze",
    "ArraySelection": "types",
    "Build": "indexes.base",
    "CifarConfig": "stages.reproduce.cifar",
    "ComputeType": "types",
    "DenseMemory": "memory",
    "EmbedConfig": "stages.embedding.config",
    "ExactIndex": "indexes.exact",
    "Gain": "metrics",
    "ImageConfig": "stages.embedding.config",
    "ImageLayout": "types",
    "ImagenetConfig": "stages.reproduce.imagenet",
    "ImagenetSizeConfig": "stages.reproduce.imagenet_size",
    "ImageStudyConfig": "stages.reproduce.image_studies.base",
    "ImportConfig": "stages.import_arrays",
    "IndexConfig": "stages.index_config",
    "LanguageConfig": "stages.embedding.config",
    "LanguageStudyConfig": "stages.reproduce.language_config",
    "Machines": "scaling.sizes",
    "MemorySettings": "stages.reproduce.image_memory",
    "MemorySize": "scaling.sizes",
    "Method": "types",
    "Metric": "types",
    "Neighbors": "indexes.base",
    "Outcomes": "quality",
    "Pooling": "types",
    "PlanConfig": "stages.plan",
    "PredictConfig": "stages.predict_config",
    "Prediction": "prediction",
    "ProbabilityMethod": "types",
    "Quality": "quality",
    "ResidualMemory": "residual_memory",
    "ResidualSpace": "types",
    "ResidualizeConfig": "stages.residualize",
    "SearchConfig": "stages.searching",
    "SimulationConfig": "stages.plan",
    "Softening": "settings",
    "StageResult": "types",
    "StorageType": "types",
    "TheoryConfig": "stages.theory",
    "TopLogits": "residuals",
    "TopMemory": "memory",
    "TopResiduals": "residuals",
    "Truncation": "truncation",
    "TuneConfig": "stages.tune_config",
    "UpdateConfig": "stages.update",
    "analyze": "stages.analyze",
    "compare": "metrics",
    "compute_residuals": "residuals",
    "compute_top_residuals": "residuals",
    "default_sigma": "weights",
    "embed": "stages.embed",
    "export": "stages.export",
    "fit_softening": "calibration",
    "fit_temperature": "calibration",
    "imagenet_size": "stages.reproduce.imagenet_size",
    "import_arrays": "stages.import_arrays",
    "index": "stages.index",
    "index_kinds": "indexes.base",
    "info": "stages.info",
    "list_layers": "stages.embed",
    "neighbor_votes": "memory",
    "neighbor_weights": "weights",
    "open_artifact": "artifacts.reader",
    "open_embeddings": "stages.sources",
    "outcomes": "quality",
    "plan_memory": "stages.plan",
    "predict": "stages.predict",
    "predict_from_neighbors": "prediction",
    "reproduce_cifar": "stages.reproduce.cifar",
    "reproduce_imagenet": "stages.reproduce.imagenet",
    "reproduce_language": "stages.reproduce.language",
    "residualize": "stages.residualize",
    "softmax": "residuals",
    "summarize": "quality",
    "theory": "stages.theory",
    "to_probabilities": "calibration",
    "tune": "stages.tune",
    "update": "stages.update",
    "verify": "stages.verify",
}

__all__ = [
    "AnalyzeConfig",
    "ArraySelection",
    "Build",
    "CifarConfig",
    "ComputeType",
    "DenseMemory",
    "EmbedConfig",
    "ExactIndex",
    "Gain",
    "ImageConfig",
    "ImageLayout",
    "ImagenetConfig",
    "ImagenetSizeConfig",
    "ImageStudyConfig",
    "ImportConfig",
    "IndexConfig",
    "LanguageConfig",
    "LanguageStudyConfig",
    "Machines",
    "MemorySettings",
    "MemorySize",
    "Method",
    "Metric",
    "Neighbors",
    "Outcomes",
    "Pooling",
    "PlanConfig",
    "PredictConfig",
    "Prediction",
    "ProbabilityMethod",
    "Quality",
    "ResidualMemory",
    "ResidualSpace",
    "ResidualizeConfig",
    "SearchConfig",
    "SimulationConfig",
    "Softening",
    "StageResult",
    "StorageType",
    "TheoryConfig",
    "TopLogits",
    "TopMemory",
    "TopResiduals",
    "Truncation",
    "TuneConfig",
    "UpdateConfig",
    "__version__",
    "analyze",
    "compare",
    "compute_residuals",
    "compute_top_residuals",
    "default_sigma",
    "embed",
    "export",
    "fit_softening",
    "fit_temperature",
    "imagenet_size",
    "import_arrays",
    "index",
    "index_kinds",
    "info",
    "list_layers",
    "neighbor_votes",
    "neighbor_weights",
    "open_artifact",
    "open_embeddings",
    "outcomes",
    "plan_memory",
    "predict",
    "predict_from_neighbors",
    "reproduce_cifar",
    "reproduce_imagenet",
    "reproduce_language",
    "residualize",
    "softmax",
    "summarize",
    "theory",
    "to_probabilities",
    "tune",
    "update",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
