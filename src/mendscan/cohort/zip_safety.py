"""Is a zip archive safe to take files from, by what its table of contents says?

Judged before one byte is taken out: names that lead out of a folder, links, passwords, sizes that cannot be true, and
members that share their bytes (the trick of "A better zip bomb", Fifield, WOOT 2019).
"""

from __future__ import annotations

import re
import stat
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

from mendscan.errors import ArchiveError

__all__ = ["ArchiveLimits", "damaged", "printable", "safe_files", "too_large"]

_MIB = 2**20
_LOCAL_HEADER_BYTES = 30
_DEFLATE_MAX_RATIO = 1032
_ENCRYPTED = 0b100_0001
_SHOWN_CHARACTERS = 120
_DRIVE = re.compile(r"[A-Za-z]:")
_FROM_SOURCE = "get the archive from the challenge itself"


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold at most; all of it is checked before anything is taken out.

    Attributes:
        members: Files and folders; the challenge's largest archive has about 800.
        member_bytes: One file, as it comes out; a scan of 512³ float64 voxels that do not compress has 1 GiB.
        table_bytes: The archive's table of contents, which has to be in memory as a whole.
        ratio: How much smaller a file of more than `ratio_from_bytes` may be inside than outside.  Scans inside are
            compressed already, so theirs is near 1.
        ratio_from_bytes: Smaller files may shrink as much as they like, as empty labels do.
    """

    members: int = 20_000
    member_bytes: int = 2 * 2**30
    table_bytes: int = 16 * _MIB
    ratio: float = 100.0
    ratio_from_bytes: int = 16 * _MIB


def printable(name: str) -> str:
    """Return a name as it can be shown: escapes instead of control characters, and not too long.

    Example:
        >>> printable("a" + chr(27) + "[2J")
        'a\\\\x1b[2J'
    """
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "…"


def too_large(problem: str, where: object, found: str, most: str) -> ArchiveError:
    """Return the error for more than an archive may hold."""
    return ArchiveError(
        problem, where=where, code="E_TOO_LARGE", found=found, expected=f"at most {most}", remedy=_FROM_SOURCE
    )


def damaged(code: str, problem: str, where: object, found: str, expected: object = None) -> ArchiveError:
    """Return the error for an archive that did not arrive whole."""
    return ArchiveError(
        problem, where=where, code=code, found=found, expected=expected, remedy="download the archive again"
    )


def safe_files(
    path: object, infos: Sequence[zipfile.ZipInfo], table_start: int, limits: ArchiveLimits
) -> list[zipfile.ZipInfo]:
    """Return the files of an archive, without its folders, if all of its members are safe.

    Args:
        path: The archive, for errors.
        infos: Its table of contents.
        table_start: Where the table begins, in bytes: no member reaches farther.
        limits: What it may hold at most.

    Raises:
        ArchiveError: E_UNSAFE_NAME, E_UNSAFE_TYPE, E_ENCRYPTED, E_COMPRESSION, E_TOO_LARGE, E_OVERLAP or
            E_DUPLICATE_NAME; names the archive and the member.
    """
    if len(infos) > limits.members:
        raise too_large("too many members", path, f"{len(infos)}", f"{limits.members}")
    for info in infos:
        where = f"{path}: {printable(info.orig_filename)}"
        _check_name(info.orig_filename, where)
        _check_kind(info, where)
        _check_size(info, limits, where)
    _check_apart(path, infos, table_start)
    files = [info for info in infos if not info.is_dir()]
    _check_once(path, files)
    return files


def _check_name(name: str, where: str) -> None:
    parts = name.removesuffix("/").split("/")
    reasons = {
        "a NUL character": "\0" in name,
        "a backslash": "\\" in name,
        "an absolute path": name.startswith("/"),
        "a drive letter": bool(_DRIVE.match(name)),
        "a way out of the folder": ".." in parts,
        "an empty part": "" in parts or "." in parts,
    }
    for reason in (reason for reason, true in reasons.items() if true):
        raise ArchiveError(
            "the name of a member is unsafe",
            where=where,
            code="E_UNSAFE_NAME",
            found=reason,
            expected="a path inside the archive",
            remedy=_FROM_SOURCE,
        )


def _check_kind(info: zipfile.ZipInfo, where: str) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not info.is_dir()):
        raise ArchiveError(
            "a member is no file",
            where=where,
            code="E_UNSAFE_TYPE",
            found="a symbolic link" if kind == stat.S_IFLNK else "a device, pipe or the like",
            expected="files and folders",
            remedy=_FROM_SOURCE,
        )
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError(
            "a member is encrypted", where=where, code="E_ENCRYPTED", expected="no password", remedy=_FROM_SOURCE
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(
            "a member is compressed in an unusual way",
            where=where,
            code="E_COMPRESSION",
            found=f"method {info.compress_type}",
            expected="stored (0) or deflated (8)",
            remedy="unpack it with 7-Zip and pack it again with 'zip -0 -r'",
        )


def _check_size(info: zipfile.ZipInfo, limits: ArchiveLimits, where: str) -> None:
    if info.file_size > limits.member_bytes:
        raise too_large("a member is too large", where, f"{info.file_size} bytes", f"{limits.member_bytes} bytes")
    ratio = info.file_size / max(1, info.compress_size)
    highest = limits.ratio if info.file_size > limits.ratio_from_bytes else _DEFLATE_MAX_RATIO
    if info.compress_type == zipfile.ZIP_STORED:
        highest = 1.0
    if ratio > highest and info.file_size > 0:
        raise too_large(
            "a member claims to hold far more than its compressed bytes can",
            where,
            f"{info.file_size} bytes in {info.compress_size}",
            f"{highest:g} times as many",
        )


def _check_apart(path: object, infos: Sequence[zipfile.ZipInfo], table_start: int) -> None:
    in_order = sorted(infos, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in in_order[1:]] + [table_start]
    for info, end in zip(in_order, ends, strict=False):
        if info.header_offset < 0 or info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > end:
            raise ArchiveError(
                "members share their bytes",
                where=f"{path}: {printable(info.orig_filename)}",
                code="E_OVERLAP",
                found=f"{info.compress_size} bytes from {info.header_offset} on",
                expected=f"an end before {end}",
                remedy=_FROM_SOURCE,
            )


def _check_once(path: object, files: list[zipfile.ZipInfo]) -> None:
    seen: dict[str, str] = {}
    for info in files:
        # Some file systems hold neither upper and lower case nor two spellings of an accent apart.
        key = unicodedata.normalize("NFC", info.filename).casefold()
        if key in seen:
            raise ArchiveError(
                "two members of the same name",
                where=f"{path}: {printable(info.filename)}",
                code="E_DUPLICATE_NAME",
                found=printable(seen[key]),
                expected="one file per name",
                remedy=_FROM_SOURCE,
            )
        seen[key] = info.filename
