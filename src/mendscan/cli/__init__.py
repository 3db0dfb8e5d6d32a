"""The commands: parse, call, print.  One module for each part of the work; help lists them in this order."""

from mendscan.cli import detector, mood, original, sampling, trials
from mendscan.cli.app import app, main

__all__ = ["app", "detector", "main", "mood", "original", "sampling", "trials"]
