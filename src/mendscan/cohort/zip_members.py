"""Reading the files of a zip archive, a piece at a time.

What the archive's table of contents can tell is judged first, in `zip_safety`; what only the bytes can tell, length
and checksum, while they are read.  Nothing here writes.

Codes of `ArchiveError`: E_NOT_FOUND, E_ACCESS, E_NOT_REGULAR, E_EMPTY, E_NOT_ZIP, E_TRUNCATED, E_CORRUPT, E_MEMORY,
E_TOO_LARGE, E_UNSAFE_NAME, E_UNSAFE_TYPE, E_ENCRYPTED, E_COMPRESSION, E_OVERLAP, E_DUPLICATE_NAME.
"""

from __future__ import annotations

import copy
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mendscan.cohort.zip_safety import ArchiveLimits, damaged, printable, safe_files, too_large
from mendscan.errors import ArchiveError, MendscanError
from mendscan.progress import Progress

__all__ = ["Member", "ZipMembers", "open_zip"]

_MIB = 2**20
_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class Member:
    """One file of an archive, as the archive's table has it.

    Attributes:
        name: Its path inside; safe, with ``/`` between folders.
        bytes: Its length as it comes out.
        crc32: Its checksum.
    """

    name: str
    bytes: int
    crc32: int


class ZipMembers:
    """The files of an open archive; made by `open_zip`.

    Attributes:
        path: The archive.
        members: Its files, by name; folders are left out.
    """

    def __init__(self, path: Path, opened: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> None:
        self.path = path
        self._zip = opened
        self._infos = {info.filename: info for info in infos}
        self.members = tuple(Member(name, info.file_size, info.CRC) for name, info in sorted(self._infos.items()))

    def where(self, member: Member) -> str:
        """Return what an error about a member names: the archive and the member."""
        return f"{self.path}: {printable(member.name)}"

    def chunks(self, member: Member, *, chunk_bytes: int = _MIB) -> Iterator[bytes]:
        """Read a member, a piece at a time.

        The last piece may come before the checksum is compared: use nothing before the iterator has ended.

        Raises:
            ArchiveError: E_CORRUPT, E_TRUNCATED, E_ACCESS or E_MEMORY; E_TOO_LARGE if it is longer than the archive
                says.
        """
        where, total, checksum = self.where(member), 0, 0
        # zipfile would stop silently at the length that the table gives; asked for one byte more, it shows the lie,
        # if it does not compare the checksum first.
        info = copy.copy(self._infos[member.name])
        info.file_size += 1
        del info.CRC
        with _reading(where):
            opened = self._zip.open(info)
        with opened:
            while True:
                with _reading(where):
                    chunk = opened.read(chunk_bytes)
                if not chunk:
                    break
                total, checksum = total + len(chunk), zlib.crc32(chunk, checksum)
                if total > member.bytes:
                    raise too_large("longer than the archive says", where, "more", f"{member.bytes} bytes")
                yield chunk
        if total < member.bytes:
            raise damaged(
                "E_TRUNCATED", "shorter than the archive says", where, f"{total} bytes", f"{member.bytes} bytes"
            )
        if checksum != member.crc32:
            raise damaged("E_CORRUPT", "the checksum is wrong", where, f"{checksum:08x}", f"{member.crc32:08x}")

    def sha256(self, progress: Progress) -> str:
        """Return the digest of the whole archive file; tells of every MiB read.

        Raises:
            ArchiveError: E_ACCESS if it cannot be read.
        """
        digest = hashlib.sha256()
        with _reading(str(self.path)), self.path.open("rb") as file:
            while chunk := file.read(_MIB):
                digest.update(chunk)
                progress.advance()
        return digest.hexdigest()


@contextmanager
def open_zip(path: Path, limits: ArchiveLimits) -> Iterator[ZipMembers]:
    """Open an archive and judge its table.

    Args:
        path: A zip file.
        limits: What it may hold at most.

    Raises:
        ArchiveError: With one of the codes of this module.
    """
    with ExitStack() as closing:
        with _reading(str(path)):
            _check_file(path)
            raw = closing.enter_context(path.open("rb", buffering=0))
            opened = _parsed(path, closing.enter_context(_BoundedReads(raw, limits.table_bytes)))
        with opened:
            yield ZipMembers(path, opened, safe_files(path, opened.infolist(), opened.start_dir, limits))


class _BoundedReads(io.BufferedReader):
    # zipfile reads the table of contents in one piece, as long as the file itself says it is.
    def __init__(self, raw: io.FileIO, largest: int) -> None:
        super().__init__(raw)
        self._largest = largest
        self._where = raw.name

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._largest:
            raise too_large("the table of contents is too long", self._where, f"{size} bytes", f"{self._largest}")
        return super().read(size)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn whatever goes wrong while an archive is read into one typed error that names it."""
    try:
        yield
    except MendscanError:
        raise
    except MemoryError as error:
        raise ArchiveError("not enough memory", where=where, code="E_MEMORY", remedy="free some memory") from error
    except EOFError as error:
        raise damaged("E_TRUNCATED", "the archive is cut off", where, "its end", "more data") from error
    except OSError as error:
        remedy = "check the file and its permissions"
        raise ArchiveError(
            "the archive cannot be read", where=where, code="E_ACCESS", found=error.strerror or error, remedy=remedy
        ) from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise damaged("E_CORRUPT", "the archive is damaged", where, printable(str(error))) from error
    except Exception as error:
        # The one boundary: zipfile raises half a dozen other kinds for damaged tables and headers.
        raise damaged("E_CORRUPT", "the archive cannot be understood", where, type(error).__name__) from error


def _check_file(path: Path) -> None:
    # Asked before opening: to open a pipe would wait for its writer for ever.
    if not path.is_file():
        code, found = ("E_NOT_REGULAR", "a folder or device") if path.exists() else ("E_NOT_FOUND", "no such file")
        raise ArchiveError("no archive", where=path, code=code, found=found, expected="a zip file", remedy="check it")
    if path.stat().st_size == 0:
        raise damaged("E_EMPTY", "the archive is empty", path, "0 bytes")


def _parsed(path: Path, file: io.BufferedReader) -> zipfile.ZipFile:
    start = file.read(512)
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        if start.startswith(_ZIP_MAGIC) and not zipfile.is_zipfile(path):
            raise damaged("E_TRUNCATED", "the archive is cut off", path, "no table of contents at its end") from error
        if start.startswith(_ZIP_MAGIC) or zipfile.is_zipfile(path):
            raise
        is_page = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml"))
        raise ArchiveError(
            "not a zip archive",
            where=path,
            code="E_NOT_ZIP",
            found="a web page: the download failed" if is_page else "another format",
            expected="a zip file",
            remedy="download the archive itself",
        ) from error
