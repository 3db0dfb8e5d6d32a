"""Rows 22 to 40: the header."""

from __future__ import annotations

import struct

import nibabel as nib
import numpy as np

from attacks.attack import Attack, checked, wrote
from mendscan.volumes.reading import ScanReader
from volumes.test_reading import (
    AFFINE,
    DATATYPE,
    DIM,
    OFFSET,
    PIXDIM,
    QFORM_CODE,
    QUATERN_B,
    SFORM_CODE,
    SLOPE,
    SROW_X,
    XYZT_UNITS,
    coloured,
    nifti,
    patched,
    voxels_of,
    without_sform,
)


def header(row: int, name: str, expected: str, content: bytes, why: str = "", through: object = None) -> Attack:
    more = {} if through is None else {"through": through}
    return Attack(row, name, expected, wrote("scan.nii", content), why, **more)  # type: ignore[arg-type]


def two_affines(first: np.ndarray, second: np.ndarray) -> bytes:
    image = nib.Nifti1Image(voxels_of(), first)
    image.set_sform(first, 1)
    image.set_qform(second, 1)
    return image.to_bytes()


def swapped(offset: int, layout: str) -> bytes:
    """One field in the other order of bytes."""
    data = nifti()
    return patched(offset, layout, struct.unpack_from(">" + layout, data, offset)[0])


def with_extension(esize: int) -> bytes:
    image = nib.Nifti1Image(voxels_of(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100))
    data = bytearray(image.to_bytes())
    struct.pack_into("<i", data, 352, esize)
    return bytes(data)


def big_endian() -> bytes:
    return nib.Nifti1Image(voxels_of(), AFFINE, nib.Nifti1Header(endianness=">")).to_bytes()


SHEARED = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
WIDE = nib.Nifti1Image((voxels_of().astype(np.int64) << 48) + 1, AFFINE, dtype=np.int64).to_bytes()
NOT_SCALED = "NIfTI's way to say: not scaled"
QFORM_ONLY = patched(QFORM_CODE, "2h", 1, 0)

HEADER_LEVEL = (
    header(22, "datatype 999", "E_DATATYPE", patched(DATATYPE, "h", 999)),
    header(23, "colours", "E_COLOUR", coloured()),
    header(23, "colours with opacity", "E_COLOUR", patched(DATATYPE, "h", 2304)),
    header(24, "complex numbers", "E_COMPLEX", nifti(voxels_of(np.complex64))),
    header(25, "128-bit floating point", "E_DATATYPE", patched(DATATYPE, "h", 1536)),
    header(25, "64-bit integers beyond 2⁵³", "", WIDE, "float32 keeps 24 bits, as of every scan"),
    header(26, "no dimension", "E_DIMENSIONS", patched(DIM, "h", 0)),
    header(26, "an axis of no voxels", "E_DIMENSIONS", patched(DIM + 2, "h", 0)),
    header(26, "nine dimensions", "E_DIMENSIONS", patched(DIM, "h", 9)),
    header(27, "an axis of -9 voxels", "E_DIMENSIONS", patched(DIM + 4, "h", -9)),
    header(28, "32767³ voxels", "E_TOO_LARGE", patched(DIM, "4h", 3, 32767, 32767, 32767)),
    header(28, "more than --max-memory", "E_TOO_LARGE", nifti(), through=ScanReader(max_bytes=2**10)),
    header(29, "voxels begin at NaN", "E_CORRUPT", patched(OFFSET, "f", np.nan)),
    header(29, "voxels begin at 1e9", "E_CORRUPT", patched(OFFSET, "f", 1e9)),
    header(29, "voxels begin at -352", "E_CORRUPT", patched(OFFSET, "f", -352)),
    header(29, "voxels begin within the header", "E_CORRUPT", patched(OFFSET, "f", 10)),
    header(30, "slope 0", "", patched(SLOPE, "ff", 0, 5), NOT_SCALED),
    header(30, "slope NaN", "", patched(SLOPE, "ff", np.nan, 0), NOT_SCALED),
    header(30, "slope infinite", "E_SCALING", patched(SLOPE, "ff", np.inf, 0)),
    header(30, "slope 1e38", "E_SCALING", patched(SLOPE, "ff", 1e38, 0)),
    header(30, "slope subnormal", "E_SCALING", patched(SLOPE, "ff", 1e-42, 0)),
    header(30, "intercept NaN", "E_SCALING", patched(SLOPE, "ff", 2, np.nan)),
    header(31, "voxel size 0, no sform", "E_GEOMETRY", patched(PIXDIM + 4, "f", 0, base=without_sform(nifti()))),
    header(31, "voxel size NaN, no sform", "E_GEOMETRY", patched(PIXDIM + 4, "f", np.nan, base=without_sform(nifti()))),
    header(31, "voxel size negative", "W_REPAIRED", patched(PIXDIM + 4, "f", -2)),
    header(31, "voxel size 0 beside an sform", "W_REPAIRED", patched(PIXDIM + 4, "f", 0)),
    header(32, "NaN in the sform", "E_GEOMETRY", patched(SROW_X, "f", np.nan)),
    header(32, "sform of zeros", "E_GEOMETRY", patched(SROW_X, "12f", *[0] * 12)),
    header(32, "two axes of the sform alike", "E_GEOMETRY", patched(SROW_X, "8f", *[1, 0, 0, 5] * 2)),
    header(33, "neither sform nor qform", "W_ORIENTATION", patched(QFORM_CODE, "2h", 0, 0)),
    header(33, "the same, strict", "E_GEOMETRY", patched(QFORM_CODE, "2h", 0, 0), through=ScanReader(strict=True)),
    header(34, "sform_code 99", "E_GEOMETRY", patched(SFORM_CODE, "h", 99)),
    header(34, "qform_code -1", "E_GEOMETRY", patched(QFORM_CODE, "h", -1)),
    header(35, "quaternion longer than 1", "E_GEOMETRY", patched(QUATERN_B, "3f", 2, 2, 2, base=QFORM_ONLY)),
    header(
        35,
        "the same beside an sform",
        "W_QFORM",
        patched(QUATERN_B, "3f", 2, 2, 2, base=patched(QFORM_CODE, "2h", 1, 1)),
    ),
    header(36, "sform and qform differ", "W_SFORM_QFORM", two_affines(AFFINE, np.diag([2.0, 1.5, 3.0, 1.0]))),
    header(
        36,
        "the same, strict",
        "E_GEOMETRY",
        two_affines(AFFINE, np.diag([2.0, 1.5, 3.0, 1.0])),
        through=ScanReader(strict=True),
    ),
    header(37, "sheared sform", "W_SHEAR", nifti(affine=SHEARED), through=checked),
    header(38, "one field byte-swapped: dim[0]", "E_DIMENSIONS", swapped(DIM, "h")),
    header(38, "one field byte-swapped: datatype int16", "E_TRUNCATED", swapped(DATATYPE, "h")),
    header(38, "magic wrong", "E_NOT_NIFTI", patched(344, "4s", b"n+3\0")),
    header(38, "sizeof_hdr 347", "W_REPAIRED", patched(0, "i", 347)),
    header(38, "big-endian file", "", big_endian(), "either order of bytes is read"),
    header(39, "unit metre", "W_UNIT", patched(XYZT_UNITS, "B", 1)),
    header(39, "unit micrometre", "W_UNIT", patched(XYZT_UNITS, "B", 3)),
    header(39, "no unit", "", patched(XYZT_UNITS, "B", 0), "millimetres are meant then"),
    header(40, "extension of 2³¹ bytes", "", with_extension(2**31 - 1), "extensions are not read"),
    header(40, "extension of 17 bytes", "", with_extension(17), "extensions are not read"),
    header(40, "voxels begin behind the file's end", "E_TRUNCATED", patched(OFFSET, "f", 100_000)),
)
