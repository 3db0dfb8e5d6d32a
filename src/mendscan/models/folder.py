"""The files of a model folder: each read once, verified against the manifest, none followed out of the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mendscan.errors import ModelError
from mendscan.strict_json import BadJsonError, parse_json

__all__ = ["LISTED", "MANIFEST", "REMEDY", "WEIGHTS", "ModelFolder", "digest", "manifest_text", "read_file"]

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
LISTED = ("config.json", "plan.json", WEIGHTS, "calibration.json", "split.json", "README.md")
"""What the manifest lists, and nothing else."""
REMEDY = "copy the model folder again from where it was trained, or train it again"

_MOST_BYTES = {
    MANIFEST: 2**16,
    "config.json": 2**20,
    "plan.json": 2**25,
    "calibration.json": 2**25,
    "split.json": 2**25,
    "README.md": 2**22,
}
"""Of each file but the weights, whose size `config.json` decides.  A cohort of 100 000 scans has a split of 7 MB."""


class _Digest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose manifest has been read.

    Attributes:
        path: The folder.
        manifest: The manifest's bytes.
        listed: Size and SHA-256 of each file, as the manifest has them.
    """

    path: Path
    manifest: bytes
    listed: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Read the manifest.

        Raises:
            ModelError: If there is none or it is damaged.
        """
        if not (path / MANIFEST).is_file():
            unfinished = (path / "work").is_dir()
            what = "training has not finished there" if unfinished else "no manifest.json"
            remedy = "finish it with mendscan train --resume" if unfinished else "give a model folder"
            raise ModelError("not a complete model", where=path, code="E_MODEL_MISSING", found=what, remedy=remedy)
        raw = read_file(path / MANIFEST, most=_MOST_BYTES[MANIFEST])
        return cls(path, raw, _listed_digests(raw, path / MANIFEST))

    @property
    def model_hash(self) -> str:
        """SHA-256 of the manifest: names this model."""
        return hashlib.sha256(self.manifest).hexdigest()

    def read(self, name: str, *, most: int | None = None) -> bytes:
        """Return the content of a listed file, verified.

        Args:
            name: The file.
            most: Its largest size; None for that of its kind.

        Raises:
            ModelError: If it is missing, a link, too large, or not the one that was saved.
        """
        expected, path = self.listed[name], self.path / name
        content = read_file(path, most=_MOST_BYTES[name] if most is None else most, size=expected["bytes"])
        found = digest(content)
        if found != expected:
            raise _altered(path, found, expected)
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a listed JSON file, which holds an object.

        Raises:
            ModelError: As `read`; or if it is anything else.
        """
        try:
            value = parse_json(self.read(name))
        except BadJsonError as error:
            raise _not_json(self.path / name, error) from None
        if not isinstance(value, dict):
            raise _not_json(self.path / name, type(value).__name__)
        return value


def read_file(path: Path, *, most: int, size: int | None = None) -> bytes:
    """Return the content of a regular file, opened once and not through a link.

    Args:
        path: The file; the last part of its path must not be a link.
        most: Its largest size in bytes, checked before anything is read.
        size: What its size should be.

    Raises:
        ModelError: E_MODEL_MISSING, E_MODEL_LINK, E_MODEL_ACCESS, E_MODEL_TOO_LARGE or E_MODEL_ALTERED.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for ever; links are refused in the same call that opens.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "")
        descriptor = os.open(path, flags)
        try:
            _check_regular(path, os.fstat(descriptor), most, size)
            with os.fdopen(descriptor, "rb", closefd=False) as opened:
                return opened.read(most + 1 if size is None else size + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_regular(path: Path, status: os.stat_result, most: int, size: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ModelError("a file is missing", where=path, code="E_MODEL_MISSING", found="no file", remedy=REMEDY)
    if status.st_size > most:
        raise ModelError(
            "the file is too large",
            where=path,
            code="E_MODEL_TOO_LARGE",
            found=f"{status.st_size:,} bytes",
            expected=f"at most {most:,}",
            remedy=REMEDY,
        )
    if size is not None and status.st_size != size:
        raise _altered(path, {"bytes": status.st_size}, {"bytes": size})


def _unreadable(path: Path, error: OSError) -> ModelError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ModelError("a file is missing", where=path, code="E_MODEL_MISSING", remedy=REMEDY)
    if error.errno == errno.ELOOP:
        remedy = "copy the model folder with its files in place of links"
        return ModelError("a link in a model folder is not followed", where=path, code="E_MODEL_LINK", remedy=remedy)
    return ModelError("the file cannot be read", where=path, code="E_MODEL_ACCESS", found=error.strerror)


def _altered(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> ModelError:
    return ModelError(
        "the file is not the one that was saved",
        where=path,
        code="E_MODEL_ALTERED",
        found=_said(found),
        expected=_said(expected),
        remedy=REMEDY,
    )


def _said(entry: dict[str, Any]) -> str:
    content = f", SHA-256 {entry['sha256'][:12]}…" if "sha256" in entry else ""
    return f"{entry['bytes']} bytes{content}"


def _not_json(path: Path, found: object) -> ModelError:
    problem = "not the JSON that was saved" if path.name != "config.json" else "not a model's configuration"
    return ModelError(problem, where=path, code="E_MODEL_JSON", found=found, remedy=REMEDY)


def _listed_digests(raw: bytes, manifest: Path) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each file; it must be, byte for byte, a manifest that `save_bundle` writes."""
    try:
        entries = parse_json(raw)["files"].items()
        listed = {name: _Digest.model_validate(entry).model_dump() for name, entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError):
        listed = {}
    if set(listed) != set(LISTED) or manifest_text(listed).encode() != raw:
        found = f"it lists {', '.join(sorted(set(listed) ^ set(LISTED)))[:80]}" if listed else None
        raise ModelError("the manifest is damaged", where=manifest, code="E_MODEL_ALTERED", found=found, remedy=REMEDY)
    return listed


def manifest_text(listed: dict[str, dict[str, Any]]) -> str:
    """Return the manifest of some files; the same files give the same bytes."""
    return json.dumps({"files": listed}, indent=2, sort_keys=True) + "\n"


def digest(content: bytes) -> dict[str, Any]:
    """Return what the manifest says of a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
