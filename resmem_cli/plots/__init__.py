"""Figures and the HTML page of a report of `analyze`; the only user of matplotlib."""

from resmem_cli.plots.gallery import Drawing, figure_files, figures, svg_text
from resmem_cli.plots.page import html_page

__all__ = ["Drawing", "figure_files", "figures", "html_page", "svg_text"]
