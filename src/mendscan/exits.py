"""How a command ends: errors become one line and an exit code, never a traceback."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from mendscan.errors import (
    ArchiveError,
    CohortError,
    Interrupted,
    MendscanError,
    ModelError,
    ResultsError,
    ScanError,
    SettingsError,
    WriteError,
)
from mendscan.failures import as_error
from mendscan.texts import printable
from mendscan.workers import WorkerDied

__all__ = [
    "EXIT_ALL_FAILED",
    "EXIT_INTERNAL",
    "EXIT_INTERRUPTED",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "reports_errors",
]

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_ALL_FAILED = 4
EXIT_INTERRUPTED = 143

DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and log messages.")]


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a command's errors into one line and an exit code, and give it the option ``--debug``."""

    @wraps(command)
    def guarded(*args: Any, debug: bool = False, **options: Any) -> None:
        _log(logging.DEBUG if debug else logging.WARNING)
        try:
            command(*args, **options)
        except MendscanError as error:
            if debug:
                raise
            typer.secho(f"error: {error}", err=True, fg="red")
            raise typer.Exit(_exit_code(error)) from None
        except (WorkerDied, MemoryError) as error:
            if debug:
                raise
            typer.secho(f"error: {as_error(error, command.__name__)}", err=True, fg="red")
            raise typer.Exit(EXIT_ALL_FAILED) from None
        except KeyboardInterrupt:
            typer.secho("interrupted", err=True, fg="red")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    guarded.__annotations__["debug"] = DebugOption
    signature = _with_debug(command)
    guarded.__signature__ = signature  # type: ignore[attr-defined]
    return guarded


class _PrintableFormatter(logging.Formatter):
    """Messages name files, and a name may hold what clears a terminal's screen."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _log(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for chatty in ("matplotlib", "nibabel", "PIL", "concurrent.futures"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _with_debug(command: Callable[..., None]) -> Any:
    signature = inspect.signature(command, eval_str=True)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption)
    return signature.replace(parameters=[*signature.parameters.values(), debug])


def _exit_code(error: MendscanError) -> int:
    if isinstance(error, Interrupted):
        return EXIT_INTERRUPTED
    if isinstance(error, (CohortError, ScanError)):
        return EXIT_ALL_FAILED
    usage = (ArchiveError, SettingsError, ModelError, ResultsError, WriteError)
    return EXIT_USAGE if isinstance(error, usage) else EXIT_INTERNAL
