"""All figures of a report, and what their files hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from resmem_cli.errors import UsageError
from resmem_cli.plots.registry import Part, recipes
from resmem_cli.plots.style import DPI, drawing, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# No date and no version: the same report gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Type": None, "Format": None},
    "png": {"Software": None},
}


class Drawing(NamedTuple):
    """A figure with what stands above and below it."""

    title: str
    caption: str
    figure: Figure


def figures(report: Mapping[str, Any]) -> dict[str, Drawing]:
    """Draw the figures a report has numbers for.

    Parameters
    ----------
    report : mapping
        Of `analyze`: `runs`, `aggregate`, `tuning`, `notices`.

    Returns
    -------
    dict of (title, caption, Figure)
        By name. With several runs, the name of a run's figure ends in its number from 1, as in `methods_2`.
        Titles and captions are plain text.
    """
    drawn: dict[str, Drawing] = {}
    with drawing():
        for name, title, caption, draw, part in _wanted(report):
            figure = draw(part)
            if figure is not None:
                drawn[name] = Drawing(title, caption, finish(figure))
    return drawn


def study_figures(study: str, document: Mapping[str, Any]) -> dict[str, Drawing]:
    """Draw the figures of a study: one of `theory`, or of a subcommand of `reproduce`.

    Parameters
    ----------
    study : str
        Its name, as figures are registered with it.
    document : mapping
        `tables` by name, as `ResultTable.document` gives them, and what the study adds for its figures.

    Returns
    -------
    dict of (title, caption, Figure)
        By name.
    """
    drawn: dict[str, Drawing] = {}
    with drawing():
        for one in recipes():
            if one.part is Part.STUDY and one.study == study:
                figure = one.draw(document)
                if figure is not None:
                    drawn[one.name] = Drawing(one.title, one.caption, finish(figure))
    return drawn


def svg_text(figure: Figure) -> str:
    """Write a figure as SVG text: fonts by name, no date, the same text every time."""
    return _image(figure, "svg").decode()


def figure_files(
    drawn: Mapping[str, Drawing], formats: Sequence[str] = ("svg", "png")
) -> Iterator[tuple[str, bytes]]:
    """Give what to write of figures: the name of each file, such as `methods.svg`, and its content.

    Parameters
    ----------
    drawn : mapping of str to Drawing
        From `figures`.
    formats : "svg", "png" or both
        PNG has 200 dots per inch.

    Raises
    ------
    UsageError
        For another format.
    """
    for kind in formats:
        if kind not in _METADATA:
            raise UsageError("unknown format of figures", expected=" or ".join(_METADATA), found=kind)
    for name, drawing_of_it in drawn.items():
        for kind in formats:
            yield f"{name}.{kind}", _image(drawing_of_it.figure, kind)


def _wanted(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any, Mapping[str, Any]]]:
    runs = report.get("runs") or []
    for recipe in recipes():
        if recipe.part is Part.REPORT:
            yield recipe.name, recipe.title, recipe.caption, recipe.draw, report
    for place, run in enumerate(runs, 1):
        suffix, note = (f"_{place}", f", run {place}") if len(runs) > 1 else ("", "")
        for recipe in recipes():
            if recipe.part is Part.RUN:
                yield recipe.name + suffix, recipe.title + note, recipe.caption, recipe.draw, run
    if report.get("tuning"):
        for recipe in recipes():
            if recipe.part is Part.TUNING:
                yield recipe.name, recipe.title, recipe.caption, recipe.draw, report["tuning"]


def _image(figure: Figure, kind: str) -> bytes:
    stream = BytesIO()
    with drawing():
        figure.savefig(stream, format=kind, dpi=DPI, metadata=_METADATA[kind])
    return stream.getvalue()
