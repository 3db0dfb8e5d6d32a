"""What the report's command prints."""

from __future__ import annotations

from rich.markup import escape

from mendscan.console_progress import console
from mendscan.errors import one_line
from mendscan.report.report import MEGABYTE, Report

__all__ = ["show_report"]


def show_report(written: Report) -> None:
    """Print where the page is, and what it does not picture."""
    for case, problem in written.problems:
        console.print(f"not pictured: {one_line(case)}: {problem}", style="yellow", markup=False, soft_wrap=True)
    if written.left_out:
        console.print(f"not everything is pictured: {written.left_out}", style="yellow", markup=False, soft_wrap=True)
    beside = ", ".join(path.name for path in written.files[1:])
    console.print(
        f"report: [bold]{escape(str(written.path))}[/bold] ({written.size / MEGABYTE:.1f} MB, {written.pictured} of "
        f"{written.scans} scans pictured; beside it {escape(beside)})",
        soft_wrap=True,
    )
    console.print("[dim]Research use only; not a medical device.[/dim]")
