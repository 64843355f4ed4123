"""One calm style for every figure, and the context in which figures are drawn and written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from resmem_cli.plots.folders import matplotlib_folders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, INK, GREY = "#56B4E9", "#CC79A7", "#222222", "#777777"

FAMILY_COLORS = {"base": INK, "knn": GREEN, "knn-lm": ORANGE, "resmem": BLUE}

# Narrow, so that letters stay readable when a page fits the figure into a phone's width.
WIDTH = 5.0
DPI = 200

STYLE: dict[str, Any] = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    # The one font that comes with matplotlib: the same layout on every machine. A page that lacks it
    # takes the reader's sans-serif font, and those are narrower.
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "xtick.color": "#999999",
    "ytick.color": "#999999",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e7e7e7",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    # A class called "$x_1$" is a name, no formula.
    "text.parse_math": False,
    # Small files whose text can be searched, and the same bytes for the same report.
    "svg.fonttype": "none",
    "svg.hashsalt": "resmem",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Hold this style, whatever the user's own settings of matplotlib; they are back afterwards."""
    with matplotlib_folders():
        import matplotlib.font_manager
        import matplotlib.style

    with warnings.catch_warnings(), matplotlib.style.context(["default", STYLE]):
        # An emoji in a class name: SVG takes it from the reader's fonts, PNG shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def new_figure(*, height: float) -> Figure:
    """Make an empty figure of the common width (inches), without pyplot and so without global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def finish(figure: Figure) -> Figure:
    """Settle the layout once, so that each format and each further writing gives the same picture."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_parse_math(False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def percent_axis(axis: Axis) -> None:
    """Label an axis of shares in percent."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g}".replace("-", "−")))


def legend_above(figure: Figure, axes: Axes, *, columns: int) -> None:
    """Put the legend of one panel above the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def spread_is_wide(values: list[float]) -> bool:
    """Tell whether positive values span more than a factor of ten, and so want a logarithmic axis."""
    return len(values) > 1 and min(values) > 0 and max(values) > 10 * min(values)


def value_axis(axes: Axes, which: Literal["x", "y"], values: list[float], *, at_most: int = 7) -> None:
    """Put an axis' ticks on the values tried, thinned where crowded; logarithmic if their spread is wide."""
    from matplotlib.ticker import NullLocator

    axis, set_scale = (axes.xaxis, axes.set_xscale) if which == "x" else (axes.yaxis, axes.set_yscale)
    ordered = sorted(set(values))
    wide = spread_is_wide(ordered)
    set_scale("log" if wide else "linear")
    axis.set_minor_locator(NullLocator())
    places = [math.log(value) for value in ordered] if wide else ordered
    nearest = (places[-1] - places[0]) / at_most
    shown: list[float] = []
    last = -math.inf
    for value, place in zip(ordered, places, strict=True):
        if place - last >= nearest:
            shown.append(value)
            last = place
    axis.set_ticks(shown, labels=[f"{v:.3g}" if v < 1000 else f"{v:,.0f}" for v in shown])
