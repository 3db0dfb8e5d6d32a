"""Pseudonyms for cases: a keyed hash in place of names of files and folders, which often are names of patients.

HMAC-SHA256 (RFC 2104): with the key, the pseudonym of a known name can be computed again; without it, guessing names
does not help.  No table of names and pseudonyms is written.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
import unicodedata
from pathlib import Path

from mendscan.errors import CohortError, MendscanError, SettingsError, WriteError
from mendscan.progress import Progress, Silent
from mendscan.volumes.finding import look_through
from mendscan.volumes.reading import case_name
from mendscan.volumes.writing import write_new

__all__ = ["pseudonym", "pseudonymised_scans", "read_or_make_key"]

_LOGGER = logging.getLogger(__name__)
_DIGITS = 12
_KEY_BYTES = 32
_SHORTEST_KEY, _LONGEST_KEY = 16, 4096
_ONLY_THE_OWNER = 0o600


def pseudonym(name: str, key: bytes) -> str:
    """Return 12 hexadecimal digits that stand for a name.

    Example:
        >>> pseudonym("Jane Doe/T1", b"0123456789abcdef")
        'fde8421964b1'
    """
    text = unicodedata.normalize("NFC", name).encode("utf-8", errors="surrogateescape")
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:_DIGITS]


def read_or_make_key(path: str | os.PathLike[str], *, progress: Progress | None = None) -> bytes:
    """Return the content of a key file; if there is none, make one of 256 random bits that only its owner may read.

    Args:
        path: The file; keep it where results are not.
        progress: Told of a new key.

    Raises:
        SettingsError: If the file is too short or too long for a key, or no file (E_KEY).
        WriteError: If it cannot be made.
    """
    file = Path(path)
    key = secrets.token_hex(_KEY_BYTES).encode()
    try:
        write_new(file, key + b"\n", mode=_ONLY_THE_OWNER)
    except FileExistsError:
        return _read_key(file)
    except OSError as error:
        raise WriteError(
            "the key file cannot be made", where="--pseudonymise", found=error.strerror, remedy="name another file"
        ) from None
    (progress or Silent()).say(
        f"a new key for pseudonyms is in {file}: keep it, and apart from the results; with another, the same scan gets "
        "another pseudonym"
    )
    return key


def pseudonymised_scans(path: str | os.PathLike[str], key: bytes, progress: Progress | None = None) -> dict[str, Path]:
    """Find scans as `find_scans` does, and name each by the keyed hash of its name relative to the folder given.

    Nothing that is raised or logged holds a name of a file or folder.

    Args:
        path: A scan or a folder.
        key: As `read_or_make_key` gives it.
        progress: Told of every DICOM file.

    Returns:
        The path of each scan by pseudonym, in the order of the pseudonyms, which says nothing about the names.

    Raises:
        CohortError: E_NOT_FOUND, E_ACCESS, E_NO_SCANS, or E_DUPLICATE_NAME if two scans have the same pseudonym.
    """
    root = Path(path)
    try:
        found = look_through(root, progress)
    except MendscanError as error:
        raise error.at("--input") from None
    for folder, note in found.notes:
        _LOGGER.warning("folder %s: %s", pseudonym(_relative(folder, root), key), note)
    named = {pseudonym(_relative(scan, root), key): scan for scan in found.scans}
    if len(named) < len(found.scans):
        raise CohortError(
            "scans with the same pseudonym",
            where="--input",
            code="E_DUPLICATE_NAME",
            found=f"{len(named)} pseudonyms for {len(found.scans)} scans",
            expected="one scan per name: names may not differ in the suffix alone",
            remedy="rename or move scans of the same name, or use another key",
        )
    return dict(sorted(named.items()))


def _relative(scan: Path, root: Path) -> str:
    """Return a scan's name below the folder given, without the suffix of a file; of a scan given itself, its name."""
    return "/".join([*scan.parent.relative_to(root).parts, case_name(scan)]) if scan != root else case_name(scan)


def _read_key(file: Path) -> bytes:
    try:
        status = file.stat()
        usable = stat.S_ISREG(status.st_mode) and status.st_size <= _LONGEST_KEY
        key = file.read_bytes().strip() if usable else b""
    except OSError as error:
        raise SettingsError(
            "the key file cannot be read", where="--pseudonymise", code="E_KEY", found=error.strerror
        ) from None
    if len(key) < _SHORTEST_KEY:
        raise SettingsError(
            "not a key for pseudonyms",
            where="--pseudonymise",
            code="E_KEY",
            found=f"{len(key)} bytes" if usable else "a folder, a pipe or a long file",
            expected=f"a file of {_SHORTEST_KEY} to {_LONGEST_KEY} bytes",
            remedy="name a file that does not exist yet, and a key is made",
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        _LOGGER.warning("--pseudonymise: others may read the key file; make it yours alone with chmod 600")
    return key
