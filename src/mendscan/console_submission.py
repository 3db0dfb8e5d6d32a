"""What the commands for the MOOD challenge print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from mendscan.console import show_official
from mendscan.console_progress import console

if TYPE_CHECKING:
    from mendscan.submission.building import Submission
    from mendscan.submission.checking import Check, ScriptCheck
    from mendscan.submission.predicting import Predicted

__all__ = ["show_check", "show_predicted", "show_submission"]

_WARNINGS_SHOWN = 25


def show_submission(submission: Submission) -> None:
    """Print what a container can now be built from."""
    for anatomy, digest in submission.model_hashes.items():
        console.print(f"{anatomy}: model {digest[:12]}")
    for anatomy in submission.absent:
        console.print(f"no model for {anatomy}: its two scripts are left out", style="yellow")
    console.print(f"submission: [bold]{escape(str(submission.folder))}[/bold] ({', '.join(submission.scripts)})")
    console.print("next: mendscan mood-check, then docker build; README.md in it has the commands")
    console.print("[dim]Research use only; not a medical device.[/dim]")


def show_predicted(done: Predicted) -> None:
    """Print how many scans were predicted."""
    zeros = f", {len(done.zeros)} of them as 0 because they could not be worked on" if done.zeros else ""
    console.print(f"{done.cases} scans predicted{zeros}")


_ISOLATION = {
    "shut": "file system read-only but for the predictions, no network: enforced by namespaces of the kernel",
    "offline": "no network: enforced by a namespace of the kernel; other writing: looked for by comparing digests",
    "guarded": "nothing enforced by the system: connections refused within Python only, writing looked for by digests",
}


def show_check(check: Check) -> None:
    """Print a table for each script, what was shut off, and PASS or FAIL with reasons."""
    for script in check.scripts:
        _show_script(script)
    console.print(f"isolation: {_ISOLATION[check.isolation]}", soft_wrap=True)
    for anatomy in check.absent:
        console.print(f"no scripts for {anatomy}", style="yellow")
    for problem in check.problems:
        console.print(f"submission folder: {problem}", style="red", markup=False, soft_wrap=True)
    console.print("[bold green]PASS[/bold green]" if check.passed else "[bold red]FAIL[/bold red]")
    console.print("[dim]Research use only; not a medical device.[/dim]")


def _show_script(script: ScriptCheck) -> None:
    verdict = "[green]PASS[/green]" if script.passed else "[red]FAIL[/red]"
    table = Table(title=f"{script.name}: {verdict}, {script.seconds:.1f} s", title_justify="left")
    for name in ("case", "seconds", "peak MB", "highest", "remarks"):
        table.add_column(name, justify="left" if name in ("case", "remarks") else "right")
    for case in script.cases:
        seconds = "–" if case.seconds is None else f"{case.seconds:.1f}"
        peak = "–" if case.peak_bytes is None else f"{case.peak_bytes / 1e6:.0f}"
        highest = f"{case.highest:.4f}" if math.isfinite(case.highest) else "–"
        said = "; ".join([*(f"[red]{escape(problem)}[/red]" for problem in case.problems), *map(escape, case.remarks)])
        table.add_row(escape(case.case), seconds, peak, highest, said)
    console.print(table)
    for problem in script.problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    for warning in script.warnings[:_WARNINGS_SHOWN]:
        console.print(f"stderr: {warning}", style="dim", markup=False, soft_wrap=True)
    if script.figure is not None:
        show_official(script.figure, "pixel" if "pixel" in script.name else "sample")
