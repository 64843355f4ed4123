"""What the paper reports of language models on C4 (section 4.3 and 4.4, appendices E and F)."""

from __future__ import annotations

from dataclasses import dataclass

TOKENS_IN_MEMORY = 1_639_000_000


@dataclass(frozen=True)
class LanguageRow:
    """A model of the paper.

    Attributes
    ----------
    name : str
    base_accuracy : float
        A share of 1.
    accuracy : float or None
        With ResMem.
    tpr, fpr, gain : float or None
        As the paper states them.
    """

    name: str
    base_accuracy: float
    accuracy: float | None = None
    tpr: float | None = None
    fpr: float | None = None
    gain: float | None = None


SMALL = LanguageRow("T5-small", 0.3801, 0.4087, tpr=0.0537, fpr=0.0244, gain=0.0293)
BASE = LanguageRow("T5-base", 0.4008)
LARGE = LanguageRow("T5-large", 0.4476, 0.4555, gain=0.0079)

KNN_LM = {0.0: 0.4476, 0.2: 0.4488, 0.4: 0.4483, 0.5: 0.4466, 0.6: 0.4427, 0.8: 0.4297, 1.0: 0.4095}
"""Table 3, of T5-large: the accuracy of kNN-LM by the weight of its neighbours' vote."""
