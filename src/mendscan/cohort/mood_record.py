"""What an import has done: ``import.json``, by which an interrupted one goes on and anyone can verify the files.

It holds the archive's name, length and SHA-256, the hold-out's size and seed, and of each file its place, member,
length, the archive's CRC-32 and, once it is complete, its own SHA-256.  No date, no path of a machine: the same
archive and seed give the same bytes.

An archive with training scans is recorded in FOLDER/import.json, one with toy cases alone in FOLDER/toy/import.json,
so that both can be imported into one folder, in either order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mendscan.cohort.mood_layout import Kind, Layout, PlannedFile
from mendscan.errors import ResultsError, WriteError
from mendscan.progress import Progress
from mendscan.strict_json import read_json
from mendscan.volumes.writing import write_json

__all__ = ["ImportRecord", "other_shape"]

FORMAT = 1
_NAME = "import.json"
_TOY = "toy"
_PARTS = ("train", "holdout", _TOY)
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_OTHER_FOLDER = "name another folder, or remove this one"


class ImportRecord:
    """The record of one archive in one folder, kept on disk as it grows.

    Args:
        folder: Where the import goes.
        layout: What becomes of the archive.
        archive: The archive; its name and length are recorded.
        holdout: How many training scans are kept apart.
        seed: Of that choice.

    Attributes:
        folder: Where the import goes.
        earlier: The archive's SHA-256 in an earlier, interrupted import; None if there was none.

    Raises:
        ResultsError: E_OTHER_IMPORT if the folder holds the import of another archive or with another hold-out,
            E_RESULTS if its record cannot be read.
        WriteError: E_NOT_EMPTY if the folder holds anything else.
    """

    def __init__(self, folder: Path, layout: Layout, *, archive: Path, holdout: int, seed: int) -> None:
        self.folder = folder
        has_training = bool(layout.of(Kind.training, Kind.holdout))
        has_toy = bool(layout.of(Kind.toy))
        self._own_parts = (("train", "holdout") if has_training else ()) + ((_TOY,) if has_toy else ())
        self._path = folder / _NAME if has_training else folder / _TOY / _NAME
        self._archive: dict[str, Any] = {"name": archive.name, "bytes": archive.stat().st_size, "sha256": None}
        self._facts: dict[str, Any] = {
            "format": FORMAT,
            "holdout": {"scans": holdout, "seed": seed if holdout else None},
        }
        self._files: dict[str, dict[str, Any]] = {file.target: _planned(file) for file in layout.files}
        self.earlier: str | None = None
        self._take_over(_read(self._path))
        self._refuse_strangers()

    def prepare(self) -> None:
        """Make the folders and the record, and clear away what an interrupted import left half-written.

        Raises:
            WriteError: If that cannot be done.
        """
        try:
            for target in self._files:
                (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
            for path in [*self._below(), *self._path.parent.iterdir()]:
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(
                "the folder cannot be prepared", where=self.folder, found=error.strerror, remedy="name another folder"
            ) from error
        self._save()

    def name_archive(self, sha256: str) -> None:
        """Record the archive's digest.

        Raises:
            WriteError: If the record cannot be written.
        """
        self._archive["sha256"] = sha256
        self._save()

    def note(self, file: PlannedFile, facts: Mapping[str, Any]) -> None:
        """Record what is known of a complete file, ``sha256`` at least, *before* it gets its name.

        A file under a final name that is not recorded is therefore nobody's work but the user's.

        Raises:
            WriteError: If the record cannot be written.
        """
        self._files[file.target] |= facts
        self._save()

    def facts(self, file: PlannedFile) -> Mapping[str, Any]:
        """Return what is recorded of a file."""
        return self._files[file.target]

    def is_there(self, file: PlannedFile) -> bool:
        """Return whether a file seems complete, by its length; `holds` reads it."""
        path, facts = self.folder / file.target, self._files[file.target]
        return "sha256" in facts and path.is_file() and path.stat().st_size == facts["bytes"]

    def holds(self, file: PlannedFile, progress: Progress) -> bool:
        """Return whether a recorded file is complete, by its digest; one that is not is to be taken out again."""
        try:
            with (self.folder / file.target).open("rb") as opened:
                same = hashlib.file_digest(opened, "sha256").hexdigest() == self._files[file.target]["sha256"]
        except FileNotFoundError:
            return False
        except OSError:
            same = False
        if not same:
            progress.say(f"{file.target}: not as it was imported; it is taken out again")
        return same

    def _take_over(self, earlier: dict[str, Any] | None) -> None:
        if earlier is None:
            return
        differs = [name for name in self._facts if earlier.get(name) != self._facts[name]]
        if _members(earlier["files"]) != _members(self._files):
            differs.append("members of the archive")
        if differs or earlier["files"].keys() != self._files.keys():
            raise ResultsError(
                "the folder holds another import",
                where=self._path,
                code="E_OTHER_IMPORT",
                found=f"{earlier['archive'].get('name')}, {_options(earlier['holdout'])}",
                expected=f"{self._archive['name']}, {_options(self._facts['holdout'])}; "
                f"other {' and '.join(differs) or 'choice of scans'}",
                remedy=f"give what was given before to go on with it, or {_OTHER_FOLDER}",
            )
        self._files, self.earlier = earlier["files"], earlier["archive"].get("sha256")

    def _refuse_strangers(self) -> None:
        known = {self.folder / target for target, facts in self._files.items() if "sha256" in facts} | {self._path}
        strangers = [path for path in self._below() if not path.name.startswith(".") and path not in known]
        layout = {_NAME, *_PARTS}
        # The archives themselves may lie there: nothing of this layout ends in .zip.
        strangers += [path for path in _visible(self.folder) if path.name not in layout and path.suffix != ".zip"]
        if strangers:
            raise WriteError(
                "the folder holds something else",
                where=self.folder,
                code="E_NOT_EMPTY",
                found=", ".join(str(path.relative_to(self.folder)) for path in sorted(strangers)[:3]),
                expected="an empty folder, or one that this import began",
                remedy=_OTHER_FOLDER,
            )

    def _below(self) -> Iterator[Path]:
        for part in self._own_parts:
            yield from (path for path in (self.folder / part).rglob("*") if not path.is_dir())

    def _save(self) -> None:
        write_json(self._path, self._facts | {"archive": self._archive, "files": self._files})


def other_shape(folder: Path) -> tuple[str, tuple[int, ...]] | None:
    """Return a scan that was imported into the folder before, and its shape, or None if there is none yet.

    Raises:
        ResultsError: If a record cannot be read.
    """
    for path in (folder / _NAME, folder / _TOY / _NAME):
        for target, facts in ((_read(path) or {}).get("files") or {}).items():
            if "shape" in facts:
                return target, tuple(facts["shape"])
    return None


def _planned(file: PlannedFile) -> dict[str, Any]:
    return {"member": file.member.name, "bytes": file.member.bytes, "crc32": f"{file.member.crc32:08x}"}


def _members(files: Mapping[str, Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    return {(facts.get("member"), facts.get("bytes"), facts.get("crc32")) for facts in files.values()}


def _options(holdout: Any) -> str:
    scans, seed = (holdout.get("scans"), holdout.get("seed")) if isinstance(holdout, dict) else (None, None)
    return f"--holdout {scans}" + (f" --seed {seed}" if scans else "")


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
        if not (isinstance(found["archive"], dict) and "holdout" in found and _are_facts(found["files"])):
            raise ValueError("not what an import records")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResultsError(
            "the record of an import cannot be read", where=path, found=type(error).__name__, remedy=_OTHER_FOLDER
        ) from None
    return dict(found)


def _are_facts(files: dict[str, dict[str, Any]]) -> bool:
    return all(
        isinstance(facts["bytes"], int)
        and ("sha256" not in facts or isinstance(facts["sha256"], str))
        and len(facts.get("shape", "xyz")) == len(facts.get("spacing_mm", "xyz")) == 3
        and (not facts.get("range") or len(facts["range"]) == 2)
        for facts in files.values()
    )
