"""The report: what a study found, as one HTML page, Markdown and CSV, and as sentences for the command line."""

from hpo.core.errors import ImageError
from hpo.report.images import FORMATS, write_images
from hpo.report.report_data import ReportData
from hpo.report.sentences import best, headline, recommendation, sentences
from hpo.report.write import write_report

__all__ = [
    "FORMATS",
    "ImageError",
    "ReportData",
    "best",
    "headline",
    "recommendation",
    "sentences",
    "write_images",
    "write_report",
]
