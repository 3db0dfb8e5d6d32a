"""The commands: parse, call, print.  One module for each part of the work; help lists them in this order."""

from mendscan.cli import detector, submission, trials
from mendscan.cli.app import app, main

__all__ = ["app", "detector", "main", "submission", "trials"]
