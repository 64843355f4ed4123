"""Words and numbers of a report, made fit to show: names of strangers' files cleaned, numbers rounded."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

MISSING = "–"
_MINUS = "\N{MINUS SIGN}"


def clean(value: object) -> str:
    """Make one line of a name from a stranger's file, fit for HTML and SVG.

    Line breaks and other white space become single spaces. Control characters and lone surrogates, which
    neither format can hold, become U+FFFD. Marks that reverse the direction of what follows are dropped.
    None becomes a dash.
    """
    if value is None:
        return MISSING
    line = " ".join(str(value).split())
    return "".join(_fit(character) for character in line)


def shorten(value: object, width: int) -> str:
    """Clean a name and cut it to a width, counted in Latin letters; wide characters count as two."""
    line = clean(value)
    if sum(map(_columns, line)) <= width:
        return line
    kept, used = [], 1
    for character in line:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def known(value: Any) -> float:
    """Give a number of the report as a float; None becomes NaN."""
    return math.nan if value is None else float(value)


def number(value: object) -> str:
    """Show a parameter, a count or a score with four significant digits, a whole number with all."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace("-", _MINUS)
    given = known(value)
    if math.isnan(given):
        return MISSING
    return f"{given:.4g}".replace("-", _MINUS)


def percent(value: object) -> str:
    """Show a share of 1 in percent with two decimals, without the sign of percent."""
    given = 100 * known(value)
    return MISSING if math.isnan(given) else f"{given:.2f}".replace("-", _MINUS)


def points(value: object) -> str:
    """Show a difference of shares in points of percent, with its sign."""
    given = 100 * known(value)
    return MISSING if math.isnan(given) else f"{given:+.2f}".replace("-", _MINUS)


def score(value: object) -> str:
    """Show a score such as the ECE with four decimals, so that a column of them lines up."""
    given = known(value)
    return MISSING if math.isnan(given) else f"{given:.4f}".replace("-", _MINUS)


def interval(bounds: object) -> str:
    """Show two differences of shares as `[low, high]`, in points of percent."""
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return MISSING
    return f"[{points(bounds[0])}, {points(bounds[1])}]"


def probability(value: object) -> str:
    """Show a p-value: three decimals, or a power of ten where those would be zero."""
    given = known(value)
    if math.isnan(given):
        return MISSING
    if given >= 0.001:
        return f"{given:.3f}"
    return f"{given:.1e}" if given > 0 else "< 1e-300"


def _fit(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE:
        return "\N{REPLACEMENT CHARACTER}"
    return "" if 0x202A <= ord(character) <= 0x202E or 0x2066 <= ord(character) <= 0x2069 else character


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
