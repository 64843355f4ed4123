"""A matplotlib figure as a part of an HTML page: SVG whose names clash with no other figure's."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from resmem_cli.plots.gallery import Drawing, svg_text
from resmem_cli.plots.labels import clean

if TYPE_CHECKING:
    from re import Match

# Text of the report can't look like a tag here: matplotlib writes "<" and ">" as entities.
_TAG = re.compile(r"<[a-z][^<>]*>", re.IGNORECASE)
_ID = re.compile(r'(?<=\sid=")(?=[^"]*")')
_REFERENCE = re.compile(r'(?<=href="#)|(?<=url\(#)')
_SHEET = re.compile(r"<defs>\s*<style\b.*?</style>\s*</defs>", re.DOTALL)


def html_figure(name: str, drawing: Drawing) -> str:
    """Write a figure with its caption; every id in it begins with the figure's name."""
    title, caption = html.escape(clean(drawing.title)), html.escape(clean(drawing.caption))
    return (
        f'<figure id="{name}">\n{inline_svg(name, drawing)}\n'
        f"<figcaption><strong>{title}.</strong> {caption}</figcaption>\n</figure>"
    )


def inline_svg(name: str, drawing: Drawing) -> str:
    """Write a figure as one `<svg>` element that takes the width it is given."""
    svg = svg_text(drawing.figure)
    svg = svg[svg.index("<svg") :].rstrip()
    # A style sheet within an SVG would hold for the whole page, which has the same rules for figures only.
    svg = _SHEET.sub("", svg, count=1)

    def rename(tag: Match[str]) -> str:
        return _REFERENCE.sub(f"{name}-", _ID.sub(f"{name}-", tag[0]))

    svg = _TAG.sub(rename, svg)
    end = svg.index(">")
    head = re.sub(r'\s(?:width|height|version|xmlns(?::\w+)?)="[^"]*"', "", svg[:end])
    label = html.escape(f"{clean(drawing.title)}. {clean(drawing.caption)}")
    return f'{head} role="img" aria-label="{label}"{svg[end:]}'
