"""The program: its name, its help, and how it starts."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mendscan.cli.streams import make_streams_patient, what_was_lost
from mendscan.exits import EXIT_USAGE

__all__ = ["app", "main"]

app = typer.Typer(
    name="mendscan",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find what does not belong in a medical scan, having seen only healthy ones.\n\n"
    "[bold]train[/bold] on healthy scans, [bold]detect[/bold] in new ones, [bold]evaluate[/bold] against labels.\n\n"
    "Research use only; not a medical device. A score means unlikely under the training set, not disease.",
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        import mendscan

        typer.echo(f"mendscan {mendscan.__version__} (research use only; not a medical device)")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    make_streams_patient()
    try:
        app()
    except SystemExit as ended:
        lost = what_was_lost()
        if lost is not None:
            typer.echo(f"error: what was printed is incomplete ({lost}); make room, or print elsewhere", err=True)
            sys.exit(ended.code or EXIT_USAGE)
        raise
