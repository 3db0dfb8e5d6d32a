"""One bad input: how it is made, what it is given to, and what comes of it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.errors import MendscanError
from mendscan.volumes import read_volume
from mendscan.volumes.checking import check_scans
from mendscan.volumes.remarks import remark, remarks_kept


@dataclass(frozen=True)
class Outcome:
    """What came of an attack.

    Attributes:
        code: ``E_...``, ``exit N``, a status of HTTP or ``closed``; empty if the input was taken.
        message: The line that a user sees, without the folder.
        warnings: Codes of what was remarked.
        error: What was raised.
        left: What was written.
    """

    code: str
    message: str
    warnings: tuple[str, ...] = ()
    error: MendscanError | None = None
    left: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Attack:
    """A row of the catalogue.

    Attributes:
        row: Its number; rows of a number belong together.
        name: What it is, in a reader's words.
        expected: The outcome's code, or ``W_...``; empty if it is to be taken without a word.
        make: Makes it in a folder of its own and returns what to give to `through`.
        why: Why it is taken; only where it is.
        through: What is asked to take it.
        keeps: What may be written: what was in order before the bad part.
    """

    row: int
    name: str
    expected: str
    make: Callable[[Path], object]
    why: str = ""
    through: Callable[..., object] = read_volume
    keeps: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.row} {self.name}".lower()).strip("-")


@dataclass(frozen=True)
class Elsewhere:
    """A row that other tests hold: their file, and the name of one of them."""

    row: int
    name: str
    expected: str
    file: str
    test: str


@cache
def outcome(attack: Attack) -> Outcome:
    """Make an attack in an empty folder and let it happen, once."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        given = attack.make(folder)
        before = _everything_below(folder)
        came = _what_comes(attack, given)
        return replace(came, message=_shown(came.message, folder), left=_everything_below(folder) - before)


def _what_comes(attack: Attack, given: object) -> Outcome:
    with remarks_kept() as remarks:
        try:
            came = attack.through(given)
        except MendscanError as error:
            return Outcome(error.code, str(error), error=error)
    if isinstance(came, Outcome):
        return came
    said = "; ".join(each.message for each in remarks)
    return Outcome("", said, tuple(each.code for each in remarks))


def wrote(name: str, content: bytes) -> Callable[[Path], Path]:
    """Return a builder of one file."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def checked(path: Path) -> None:
    """Let ``mendscan check`` look at a scan; what it warns of is remarked."""
    (scan,) = check_scans([path], workers=0).scans
    assert not scan.code, scan.message
    for each in scan.warnings:
        remark(path, each.code, each.message)


def commanded(arguments: list[object]) -> Outcome:
    """Run a command in this process."""
    shown = CliRunner().invoke(app, list(map(str, arguments)))
    assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
    assert "Traceback" not in shown.output
    if shown.exit_code == 0:
        return Outcome("", "")
    words = re.sub(r"[\s│╭╮╰╯─]+", " ", shown.output)
    match = re.search(r"error: .*|Error (.*)", words)
    assert match, shown.output
    return Outcome(f"exit {shown.exit_code}", match[1] or match[0])


def _everything_below(folder: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _shown(message: str, folder: Path) -> str:
    """Return a message without what differs from run to run, or from machine to machine."""
    short = re.sub(r"(.)\1{99,}", r"\1…", message.replace(f"{folder}/", "").replace(str(folder), "."))
    return " ".join(re.sub(r"SHA-256 [0-9a-f]{12}…", "SHA-256 …", short).split())
