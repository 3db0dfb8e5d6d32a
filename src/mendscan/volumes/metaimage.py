"""Reading MetaImage: one file (.mha), or a header (.mhd) with its voxels beside it.

The format: https://itk.org/Wiki/ITK/MetaIO/Documentation.  A header of lines ``Key = value`` ends with ElementDataFile.
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
    required_field,
    truncated,
    unsupported,
)
from mendscan.volumes.payload import Encoding, Payload, confined_file, float32_voxels, payload_chunks
from mendscan.volumes.world import LPS_TO_RAS, homogeneous, warn_orientation_unknown

__all__ = ["is_metaimage", "read_metaimage"]

_LONGEST_LINE = 2**16
_MOST_LINES = 10_000
_FIRST_LINE = re.compile(rb"\s*(ObjectType|NDims|Comment)\s*=")
_DTYPE_OF = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_ORIGINS = ("Offset", "Position", "Origin")
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_MM_PER_UNIT = {"mm": 1.0, "": 1.0, "?": 1.0, "cm": 10.0, "um": 0.001}


def is_metaimage(head: bytes) -> bool:
    """Whether a file's first bytes look like the header of a MetaImage."""
    return bool(_FIRST_LINE.match(head)) and b"\0" not in head[:64]


def read_metaimage(
    path: Path, *, max_bytes: int | None, where: str
) -> tuple[Float32[np.ndarray, "I J K"], Float[np.ndarray, "4 4"]]:
    """Read voxels and affine.

    Args:
        path: A ``.mha`` or ``.mhd`` file.
        max_bytes: The most that the voxels may take as float32; None = any number.
        where: What errors and warnings name.

    Returns:
        The voxels along the file's axes, and the map from their index to millimetres in RAS+.

    Raises:
        UnreadableScanError: E_TRUNCATED, E_CORRUPT, E_DATATYPE, E_TOO_LARGE, E_UNSAFE_PATH or E_NO_DATA_FILE.
        GeometryError: E_DIMENSIONS or E_GEOMETRY.
        IntensityError: E_COLOUR or E_SCALING.
    """
    with path.open("rb") as file:
        fields = _fields(file, where)
        end_of_header = file.tell()
    shape = _shape(fields, where)
    check_size(shape, max_bytes, where)
    _check_values(fields, where)
    affine = _affine(fields, where)
    payload = _payload(path, fields, shape, end_of_header, where)
    chunks = payload_chunks(payload, where=where)
    return float32_voxels(chunks, shape, where=where, scaling="unscaled", remedy="save it as float32"), affine


def _fields(file: BinaryIO, where: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = file.readline(_LONGEST_LINE)
        if not line:
            raise truncated(where, "the end of the file", "ElementDataFile, the last line of the header")
        key, equals, value = line.decode("utf-8", errors="replace").strip().partition("=")
        if not (key := key.strip()):
            continue
        if not equals or key in fields:
            raise corrupt("the header cannot be understood", where, "a line that is no field, or a field twice")
        fields[key] = value.strip()
        if key == "ElementDataFile":
            return fields
    raise corrupt("the header does not end", where, f"{_MOST_LINES} lines")


def _shape(fields: dict[str, str], where: str) -> tuple[int, int, int]:
    sizes = [int(size) for size in required_field(fields, "DimSize", where).split()]
    if len(sizes) != int(required_field(fields, "NDims", where)) or min(sizes, default=0) < 1:
        raise dimensions_error(sizes, where, "convert the scan again from its source")
    if len(sizes) < 3:
        raise dimensions_error(sizes, where, "give the whole three-dimensional scan")
    if max(sizes[3:], default=1) > 1:
        raise dimensions_error(sizes, where, "keep one volume")
    return sizes[0], sizes[1], sizes[2]


def _check_values(fields: dict[str, str], where: str) -> None:
    if fields.get("ObjectType", "Image") != "Image":
        raise unsupported("the object", "ObjectType = Image", where)
    if int(fields.get("ElementNumberOfChannels", "1")) != 1:
        raise IntensityError(
            "the voxels are colours or vectors",
            where=where,
            code="E_COLOUR",
            found=f"{int(fields['ElementNumberOfChannels'])} numbers per voxel",
            expected="one number",
            remedy="convert to grey, or keep one component",
        )
    slope = float(fields.get("ElementToIntensityFunctionSlope", "1"))
    offset = float(fields.get("ElementToIntensityFunctionOffset", "0"))
    if (slope, offset) != (1.0, 0.0):
        raise IntensityError(
            "the header scales its voxels, which programs read in different ways",
            where=where,
            code="E_SCALING",
            found=f"slope {slope:g}, offset {offset:g}",
            remedy="save the scaled values",
        )


def _affine(fields: dict[str, str], where: str) -> Affine:
    dimensions = len(fields["DimSize"].split())
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), dimensions, where)
    if spacing is None:
        raise GeometryError("no voxel sizes in the header", where=where, remedy="convert the scan from its source")
    directions = _numbers(fields, _DIRECTIONS, dimensions**2, where)
    origin = _numbers(fields, _ORIGINS, dimensions, where)
    if directions is None or origin is None:
        warn_orientation_unknown(where, "the header has no TransformMatrix or no Offset")
    directions = np.eye(dimensions).ravel() if directions is None else directions
    # Each row of the matrix as it is written is the direction of one axis.
    axes = directions.reshape(dimensions, dimensions)[:3, :3].T * spacing[:3]
    matrix = homogeneous(axes, np.zeros(3) if origin is None else origin[:3])
    return LPS_TO_RAS @ np.diag([_mm_per_unit(fields, where)] * 3 + [1.0]) @ matrix


def _mm_per_unit(fields: dict[str, str], where: str) -> float:
    unit = fields.get("DistanceUnits", "mm").lower()
    if unit not in _MM_PER_UNIT:
        raise GeometryError("the unit of space is unknown", where=where, expected="mm, cm or um")
    return _MM_PER_UNIT[unit]


def _numbers(fields: dict[str, str], keys: tuple[str, ...], count: int, where: str) -> Float[np.ndarray, " n"] | None:
    text = next((fields[key] for key in keys if key in fields), None)
    if text is None:
        return None
    numbers = np.array([float(number) for number in text.split()])
    if len(numbers) != count:
        raise GeometryError(
            f"{keys[0]} has too many or too few numbers", where=where, found=len(numbers), expected=count
        )
    return numbers


def _payload(path: Path, fields: dict[str, str], shape: tuple[int, int, int], start: int, where: str) -> Payload:
    encoding: Encoding = "raw" if _is_true(fields, "BinaryData", default=True) else "text"
    if _is_true(fields, "CompressedData"):
        encoding = "zlib"
    name = _DTYPE_OF.get(required_field(fields, "ElementType", where))
    if name is None:
        raise unsupported("the voxel type", "8- to 64-bit integers, MET_FLOAT or MET_DOUBLE", where)
    big = any(_is_true(fields, key) for key in _BYTE_ORDERS)
    skip, file = int(fields.get("HeaderSize", "0")), fields["ElementDataFile"]
    if file.upper().startswith("LIST") or "%" in file:
        raise unsupported("a scan of several files of voxels", "one file", where)
    if skip < -1 or (skip == -1 and encoding != "raw"):
        raise corrupt("the header skips to nowhere", where, f"HeaderSize {skip}")
    local = file.upper() == "LOCAL"
    data = path if local else confined_file(path, file, where=where)
    start = (start if local else 0) + max(skip, 0)
    return Payload(data, start, encoding, np.dtype((">" if big else "<") + name), shape, at_end=skip == -1)


def _is_true(fields: dict[str, str], key: str, *, default: bool = False) -> bool:
    return fields.get(key, str(default)).lower() in ("true", "1", "t")
