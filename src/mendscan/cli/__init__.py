"""The commands: parse, call, print.  One module for each part of the work; help lists them in this order."""

from mendscan.cli import check, detector, reporting, view, trials, sampling, original, models, mood, submission  # isort: skip
from mendscan.cli.app import app, main

__all__ = [
    "app",
    "check",
    "detector",
    "main",
    "models",
    "mood",
    "original",
    "reporting",
    "sampling",
    "submission",
    "trials",
    "view",
]
