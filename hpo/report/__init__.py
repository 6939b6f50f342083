"""The report: what a study found, as one HTML page, Markdown and CSV, and as sentences for the command line."""

from hpo.core.errors import ImageError
from hpo.report.answers import Answer, answers, moving_winner
from hpo.report.arm_labels import arm_label
from hpo.report.html_page import page
from hpo.report.images import FORMATS, draw, write_images
from hpo.report.report_data import ReportData, recommended_weights
from hpo.report.sentences import headline, sentences
from hpo.report.tables import all_trials, arms_numbers
from hpo.report.write import write_report

__all__ = [
    "FORMATS",
    "Answer",
    "ImageError",
    "ReportData",
    "all_trials",
    "answers",
    "arm_label",
    "arms_numbers",
    "draw",
    "headline",
    "moving_winner",
    "page",
    "recommended_weights",
    "sentences",
    "write_images",
    "write_report",
]
