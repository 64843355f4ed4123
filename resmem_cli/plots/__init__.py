"""Figures and the HTML page of a report of `analyze`; the only user of matplotlib."""

from resmem_cli.plots.gallery import Drawing, figures, save_figures, svg_text
from resmem_cli.plots.page import html_page

__all__ = ["Drawing", "figures", "html_page", "save_figures", "svg_text"]
