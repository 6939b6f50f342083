"""The report: what a study found, as one HTML page, Markdown and CSV, and as sentences for the command line."""

from hpo.core.errors import ImageError
from hpo.report.html_page import page
from hpo.report.images import FORMATS, draw, write_images
from hpo.report.report_data import ReportData, recommended_weights
from hpo.report.sentences import best, headline, recommendation, sentences
from hpo.report.tables import all_trials, arms_numbers
from hpo.report.write import write_report

__all__ = [
    "FORMATS",
    "ImageError",
    "ReportData",
    "all_trials",
    "arms_numbers",
    "best",
    "draw",
    "headline",
    "page",
    "recommendation",
    "recommended_weights",
    "sentences",
    "write_images",
    "write_report",
]
