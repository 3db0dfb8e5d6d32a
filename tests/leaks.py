"""What lies in files, unpacked, and whether it says what it must not."""

from __future__ import annotations

import base64
import gzip
import io
import re
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path


def contents(path: Path) -> bytes:
    """Return what a file holds, with what is compressed or encoded in it behind it."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        return data + gzip.decompress(data)
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return data + b"".join(archive.read(name) for name in archive.namelist())
    return data + b"".join(embedded(data))


def embedded(data: bytes) -> list[bytes]:
    """Return what a page holds as base64, and that unpacked if it is packed."""
    found = [
        base64.b64decode(part + b"=" * (-len(part) % 4)) for part in re.findall(rb"base64,([A-Za-z0-9+/]{40,})", data)
    ]
    return found + [gzip.decompress(part) for part in found if part[:2] == b"\x1f\x8b"]


def hits(data: bytes, words: tuple[bytes, ...]) -> list[bytes]:
    """Return the words that are in some bytes, in any case, across line ends, and as UTF-16."""
    plain = data.lower()
    joined = re.sub(rb"[\r\n]\s*", b"", plain)
    return [word for word in words if word in plain or word in joined or word.decode().encode("utf-16-le") in plain]


def dated(files: Iterable[Path], began: float) -> dict[str, str]:
    """Return which files say on which day or when they were written, in words, figures or seconds since 1970."""
    days = [calendar(moment) for moment in (began, time.time()) for calendar in (time.localtime, time.gmtime)]
    forms = ("%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y", "%d %b %Y", "%b %d, %Y", "%B %d, %Y", "%d %B %Y", "%Y/%m/%d")
    words = {rf"(?<![\d.]){time.strftime(form, day)}(?!\d)" for day in days for form in forms}
    seconds = {rf"(?<![\d.]){str(int(moment))[:6]}\d{{4}}" for moment in (began, time.time())}
    said = re.compile("|".join(sorted(words | seconds)))
    looked_through = (path for path in files if path.suffix not in (".gz", ".safetensors", ".npy"))  # numbers only
    return {str(path): found.group() for path in looked_through if (found := said.search(_text(path)))}


def _text(path: Path) -> str:
    return contents(path).decode("latin-1")
