"""Figures of reports and studies, and a report's HTML page; the only user of matplotlib."""

from resmem_cli.plots.gallery import Drawing, figure_files, figures, study_figures, svg_text
from resmem_cli.plots.page import html_page

__all__ = ["Drawing", "figure_files", "figures", "html_page", "study_figures", "svg_text"]
