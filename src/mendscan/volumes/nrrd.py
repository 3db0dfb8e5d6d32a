"""Reading NRRD: one file (.nrrd), or a header (.nhdr) with its voxels beside it.

The format: http://teem.sourceforge.net/nrrd/format.html.  A header of lines ``field: value`` ends with an empty line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Float32

from mendscan.errors import GeometryError, IntensityError
from mendscan.shapes import Affine
from mendscan.volumes.faults import (
    check_size,
    corrupt,
    dimensions_error,
    regular_file_bytes,
    required_field,
    truncated,
    unsupported,
)
from mendscan.volumes.payload import Encoding, Payload, confined_file, float32_voxels, payload_chunks
from mendscan.volumes.world import LPS_TO_RAS, homogeneous, warn_orientation_unknown

__all__ = ["NRRD_MAGIC", "read_nrrd"]

NRRD_MAGIC = b"NRRD000"

_LONGEST_LINE = 2**16
_MOST_LINES = 10_000
_ENCODINGS: dict[str, Encoding] = {
    "raw": "raw", "txt": "text", "text": "text", "ascii": "text", "hex": "hex",
    "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2",
}  # fmt: skip
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPE_OF = {name: dtype for dtype, names in _TYPES.items() for name in names}
_ORIENTATIONS = {
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
}  # fmt: skip
_MM_PER_UNIT = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
_COLOUR_KINDS = re.compile(r"colou?r", re.IGNORECASE)


def read_nrrd(
    path: Path, *, max_bytes: int | None, where: str
) -> tuple[Float32[np.ndarray, "I J K"], Float[np.ndarray, "4 4"]]:
    """Read voxels and affine.

    Args:
        path: A ``.nrrd`` or ``.nhdr`` file.
        max_bytes: The most that the voxels may take as float32; None = any number.
        where: What errors and warnings name.

    Returns:
        The voxels along the file's axes, and the map from their index to millimetres in RAS+.

    Raises:
        UnreadableScanError: E_TRUNCATED, E_CORRUPT, E_DATATYPE, E_TOO_LARGE, E_UNSAFE_PATH or E_NO_DATA_FILE.
        GeometryError: E_DIMENSIONS or E_GEOMETRY.
        IntensityError: E_COLOUR, E_COMPLEX or E_SCALING.
    """
    with path.open("rb") as file:
        fields = _fields(file, where)
        end_of_header = file.tell()
    axes, shape = _spatial_axes(fields, where)
    check_size(shape, max_bytes, where)
    affine = _affine(fields, axes, where)
    payload = _payload(path, fields, shape, end_of_header, where)
    chunks = payload_chunks(payload, where=where)
    return float32_voxels(chunks, shape, where=where, scaling="unscaled", remedy="save it as float32"), affine


def _fields(file: BinaryIO, where: str) -> dict[str, str]:
    """Return the header's fields, names in lower case without spaces."""
    fields: dict[str, str] = {}
    file.readline(_LONGEST_LINE)  # the magic
    for _ in range(_MOST_LINES):
        line = file.readline(_LONGEST_LINE)
        text = line.decode("utf-8", errors="replace").rstrip("\r\n")
        if not text:
            if not line and "datafile" not in fields:  # a detached header may end with the file
                raise truncated(where, "the end of the file", "an empty line after the header")
            return fields
        name, colon, value = text.partition(":")
        if text.startswith("#") or value.startswith("="):
            continue  # a comment, or a note such as scanners and hospitals leave
        key = re.sub(r"[\s_]", "", name).lower()
        if not colon or key in fields:
            raise corrupt("the header cannot be understood", where, "a line that is no field, or a field twice")
        fields[key] = value.strip()
    raise corrupt("the header does not end", where, f"{_MOST_LINES} lines")


def _spatial_axes(fields: dict[str, str], where: str) -> tuple[list[int], tuple[int, int, int]]:
    """Return which of the file's axes are axes of space, and how many voxels there are along each."""
    sizes = [int(size) for size in required_field(fields, "sizes", where).split()]
    if len(sizes) != int(required_field(fields, "dimension", where)) or min(sizes, default=0) < 1:
        raise dimensions_error(sizes, where, "convert the scan again from its source")
    directions = _directions(fields)
    if directions is not None and len(directions) != len(sizes):
        raise GeometryError("not one space direction for each axis", where=where, found=len(directions))
    axes = [axis for axis in range(len(sizes)) if directions is None or directions[axis] is not None]
    if directions is None:
        axes = axes[:3]
    more = [axis for axis in range(len(sizes)) if axis not in axes and sizes[axis] > 1]
    if more:
        raise _more_than_space(fields, sizes, more[0], where)
    if len(axes) != 3:
        raise dimensions_error(sizes, where, "give the whole three-dimensional scan")
    i, j, k = (sizes[axis] for axis in axes)
    return axes, (i, j, k)


def _more_than_space(fields: dict[str, str], sizes: list[int], axis: int, where: str) -> Exception:
    kinds = fields.get("kinds", "").split()
    kind = kinds[axis] if axis < len(kinds) else ""
    if _COLOUR_KINDS.search(kind):
        return IntensityError(
            "the voxels are colours", where=where, code="E_COLOUR", expected="one number", remedy="convert to grey"
        )
    if kind.lower() == "complex":
        return IntensityError(
            "the voxels are complex", where=where, code="E_COMPLEX", expected="real", remedy="save the magnitude"
        )
    return dimensions_error(sizes, where, "keep one volume with one number per voxel")


def _affine(fields: dict[str, str], axes: list[int], where: str) -> Affine:
    directions = _directions(fields)
    if directions is None:
        warn_orientation_unknown(where, "the header has no space directions")
        spacings = [float(size) for size in fields.get("spacings", "nan " * 16).split()]
        if len(spacings) <= max(axes) or not np.isfinite([spacings[axis] for axis in axes]).all():
            raise GeometryError("no voxel sizes in the header", where=where, remedy="convert the scan from its source")
        return LPS_TO_RAS @ homogeneous(np.diag([abs(spacings[axis]) for axis in axes]), np.zeros(3))
    columns = [directions[axis] for axis in axes]
    origin = _vectors(fields.get("spaceorigin", ""))
    if len(origin) != 1:
        warn_orientation_unknown(where, "the header has no space origin; it is taken for 0")
        origin = [[0.0, 0.0, 0.0]]
    if any(vector is None or len(vector) != 3 for vector in (*columns, *origin)):
        raise GeometryError("the space is not three-dimensional", where=where, expected="vectors of three numbers")
    matrix = homogeneous(np.array(columns, np.float64).T, np.array(origin[0], np.float64))
    return _to_ras(fields, where) @ np.diag([_mm_per_unit(fields, where)] * 3 + [1.0]) @ matrix


def _to_ras(fields: dict[str, str], where: str) -> Affine:
    space = fields.get("space", "").lower()
    if not space:
        warn_orientation_unknown(where, "the header names no space")
        return LPS_TO_RAS
    if space not in _ORIENTATIONS:
        raise GeometryError(
            "the header's space does not say where left, front and top are",
            where=where,
            expected="left-posterior-superior, right-anterior-superior or left-anterior-superior",
            remedy="convert the scan again from its source",
        )
    return np.diag([*map(float, _ORIENTATIONS[space]), 1.0])


def _mm_per_unit(fields: dict[str, str], where: str) -> float:
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', fields.get("spaceunits", '"mm"'))}
    if len(units) != 1 or not units <= set(_MM_PER_UNIT):
        raise GeometryError(
            "the unit of space is unknown",
            where=where,
            expected=f"one of {', '.join(filter(None, _MM_PER_UNIT))}, the same for each axis",
            remedy="correct 'space units' in the header",
        )
    return _MM_PER_UNIT[units.pop()]


def _payload(path: Path, fields: dict[str, str], shape: tuple[int, int, int], start: int, where: str) -> Payload:
    encoding = _ENCODINGS.get(required_field(fields, "encoding", where).lower())
    if encoding is None:
        raise unsupported("the encoding of the voxels", "raw, gzip, bzip2, text or hex", where)
    dtype = _dtype(fields, encoding, where)
    name = fields.get("datafile", "")
    if name.lower().startswith("list") or "%" in name:
        raise unsupported("a scan of several files of voxels", "one file", where)
    data = confined_file(path, name, where=where) if name else path
    lines, skip = int(fields.get("lineskip", "0")), int(fields.get("byteskip", "0"))
    if lines < 0 or skip < -1 or (skip == -1 and encoding != "raw"):
        raise corrupt("the header skips to nowhere", where, f"line skip {lines}, byte skip {skip}")
    start = _after_lines(data, 0 if name else start, lines, where)
    return Payload(data, start, encoding, dtype, shape, skip=max(skip, 0), at_end=skip == -1)


def _dtype(fields: dict[str, str], encoding: str, where: str) -> np.dtype:
    name = _DTYPE_OF.get(" ".join(required_field(fields, "type", where).lower().split()))
    if name is None:
        raise unsupported("the voxel type", "8- to 64-bit integers, float or double", where)
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None and name[1] != "1" and encoding != "text":
        raise corrupt("the header does not say the order of bytes", where, "no 'endian: little' or 'endian: big'")
    return np.dtype((order or "<") + name)


def _after_lines(data: Path, start: int, lines: int, where: str) -> int:
    if lines > _MOST_LINES:
        raise corrupt("the header skips too much", where, f"line skip {lines}")
    if not lines:
        return start
    regular_file_bytes(data, where, expected="a file of voxels")
    with data.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            file.readline(_LONGEST_LINE)
        return file.tell()


def _directions(fields: dict[str, str]) -> list[list[float] | None] | None:
    return _vectors(fields["spacedirections"]) if "spacedirections" in fields else None


def _vectors(text: str) -> list[list[float] | None]:
    found = re.findall(r"\(([^)]*)\)|(none)", text, re.IGNORECASE)
    return [None if none else [float(number) for number in numbers.split(",")] for numbers, none in found]
