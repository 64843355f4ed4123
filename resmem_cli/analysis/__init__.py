"""Where memory helps and where it harms, which memory rows did it, and when to let memory answer."""

from resmem_cli.analysis.coarse_to_fine import CoarseToFine, coarse_to_fine, difference_interval
from resmem_cli.analysis.groups import Group, by_class, by_frequency, by_group, by_quantile
from resmem_cli.analysis.influence import Influence, InfluentialRow, influence
from resmem_cli.gate import Gate, select_gate

__all__ = [
    "CoarseToFine",
    "Gate",
    "Group",
    "Influence",
    "InfluentialRow",
    "by_class",
    "by_frequency",
    "by_group",
    "by_quantile",
    "coarse_to_fine",
    "difference_interval",
    "influence",
    "select_gate",
]
