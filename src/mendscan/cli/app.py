"""The program: its name, its help, and how it starts."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from mendscan.exits import EXIT_INTERNAL

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "–" shows "?", and the work is not lost
    try:
        app()
    except BrokenPipeError:
        sys.exit(EXIT_INTERNAL)
