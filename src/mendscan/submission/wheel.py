"""The package itself as a wheel, made from the files that are running: offline, from a checkout and from an install.

A wheel is a zip archive (PyPA, "Binary distribution format"); one of pure Python needs nothing that is not here.  What
`mendscan mood-check` runs is thus byte for byte what the container installs, and building the container needs no build
tool.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import mendscan
from mendscan.errors import WriteError
from mendscan.volumes.writing import write_bytes

__all__ = ["pinned_requirements", "write_wheel"]

_NAME = "mendscan"
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of every file in the archive: the same files give the same bytes."""
_REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9._-]+")
_WHEEL = "Wheel-Version: 1.0\nGenerator: mendscan\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write the running package as a wheel.

    Args:
        folder: Where to; must exist.

    Returns:
        The file.

    Raises:
        WriteError: If the package is not installed, not even in development mode: nothing then says what it needs.
    """
    distribution = _distribution()
    info = f"{_NAME}-{mendscan.__version__}.dist-info"
    contents = _package_files()
    contents[f"{info}/METADATA"] = (distribution.read_text("METADATA") or "").encode()
    contents[f"{info}/WHEEL"] = _WHEEL.encode()
    contents[f"{info}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    if licence := distribution.read_text("licenses/LICENSE"):
        contents[f"{info}/licenses/LICENSE"] = licence.encode()
    contents[f"{info}/RECORD"] = _record(contents, f"{info}/RECORD")
    path = folder / f"{_NAME}-{mendscan.__version__}-py3-none-any.whl"
    write_bytes(path, _zipped(contents))
    return path


def pinned_requirements() -> str:
    """Return a constraints file: every package that mendscan runs with here, at its version.

    A local version such as ``2.13.0+cpu`` is named without its build, of which the container has its own.
    """
    found: dict[str, str] = {}
    waiting = list(_distribution().requires or [])
    while waiting:
        requirement = waiting.pop()
        name = _REQUIREMENT_NAME.match(requirement)
        if name is None or "extra ==" in requirement or (key := _normal(name[0])) in found:
            continue
        try:
            distribution = importlib.metadata.distribution(key)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python version
        found[key] = distribution.version.partition("+")[0]
        waiting += distribution.requires or []
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join(["# The versions with which this submission was built and checked.", *lines]) + "\n"


def _distribution() -> importlib.metadata.Distribution:
    try:
        distribution = importlib.metadata.distribution(_NAME)
    except importlib.metadata.PackageNotFoundError:
        raise WriteError(
            "mendscan is not installed", where=_NAME, remedy="install it, such as with 'pip install -e .'"
        ) from None
    if distribution.version != mendscan.__version__:
        raise WriteError(
            "another version is installed than runs",
            where=_NAME,
            found=distribution.version,
            expected=mendscan.__version__,
            remedy="install it again",
        )
    return distribution


def _package_files() -> dict[str, bytes]:
    root = Path(mendscan.__file__).parent
    inside = (path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {f"{_NAME}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in inside}


def _record(contents: Mapping[str, bytes], own: str) -> bytes:
    rows = []
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*rows, f"{own},,", ""]).encode()


def _zipped(contents: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            zipped.writestr(entry, content)
    return archive.getvalue()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
