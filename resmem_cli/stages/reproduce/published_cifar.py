"""What Yang et al. 2023 report for CIFAR100 and CIFAR-ResNet-8, as shares of 1."""

from __future__ import annotations

from resmem_cli.results import Estimate

EPOCHS = 256
"""Of every training run in the paper."""

ONE_RUN = {"base_accuracy": 0.5646, "accuracy": 0.5966, "gain": 0.0319, "tpr": 0.0589, "fpr": 0.0270}
"""Section 4.2 and 4.4, k = 53, sigma = 0.7, T = 1.4; the gain is that of section 4.4."""

FIVE_RUNS = {"base_accuracy": Estimate(0.565, 0.557, 0.573, 5), "accuracy": Estimate(0.59, 0.583, 0.597, 5)}
"""Section 4.2: over five initialisations."""

KNN_ON_LABELS = 0.5444
"""Appendix F."""

EARLY = {
    128: (0.340, 0.493),
    160: (0.562, 0.602),
    192: (0.556, 0.586),
    224: (0.572, 0.592),
    256: (0.566, 0.595),
}
"""Table 1: network and ResMem after so many of the 256 epochs."""

MILLISECONDS = (15.9, 4.8, 15.9 + 4.8)
"""For one test image on a CPU: ResNet-8, the kNN step, and both."""

DEEPER_MILLISECONDS = {"ResNet-14": 26.2}
"""The same, of deeper networks."""
