"""Is a NIfTI header usable?  Asked before one voxel is read or allocated.

nibabel accepts, repairs or chokes on many broken headers, and says so in eight kinds of exception.  Here the fields
are looked at as they are stored, and each problem has its own name and remedy.
"""

from __future__ import annotations

import logging
import math
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np

from mendscan.errors import GeometryError, IntensityError, UnreadableScanError
from mendscan.shapes import Affine
from mendscan.volumes.faults import check_size, dimensions_error
from mendscan.volumes.remarks import remark
from mendscan.volumes.volume import NativeGeometry, array_geometry
from mendscan.volumes.world import warn_orientation_unknown

__all__ = ["LONGEST_HEADER", "native_geometry", "parse_header", "scan_shape", "usable_header", "voxel_byte_range"]

LONGEST_HEADER = 540
"""Bytes of a NIfTI-2 header; a NIfTI-1 header has 348."""
SMALLEST_SLOPE = float(np.finfo(np.float32).tiny)
"""A scaling slope nearer to 0 has lost its digits."""
SFORM_QFORM_TOLERANCE_MM = 0.5
"""A farther distance of a scan's corner under its two affines is worth a warning."""

_LOGGER = logging.getLogger(__name__)
_HEADER_BYTES = {1: 348, 2: 540}
_MAGIC = {1: (344, b"n+1\0"), 2: (4, b"n+2\0\r\n\x1a\n")}
_LARGEST_VOXEL_OFFSET = 2**26
_KNOWN_CODES = range(6)
_COLOUR_DATATYPES = (128, 2304)
_COMPLEX_DATATYPES = (32, 1792, 2048)
_REAL_DATATYPES = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)
_NOT_NIFTI = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with 'git lfs pull'"),
    (128, b"DICM", "a DICOM file", "convert the series to NIfTI, for example with dcm2niix"),
    (0, b"NRRD", "an NRRD file", "convert it to NIfTI"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first"),
    (344, b"ni1\0", "one half of a .hdr/.img pair", "convert the pair to a single .nii file"),
    (0, b"\x5c\x01\0\0", "an Analyze 7.5 header, which does not know left from right", "convert the source to NIfTI"),
    (0, b"\0\0\x01\x5c", "an Analyze 7.5 header, which does not know left from right", "convert the source to NIfTI"),
)


def parse_header(head: bytes, *, where: object) -> nib.Nifti1Header:
    """Recognise a NIfTI-1 or NIfTI-2 header and return its fields as they are stored.

    Args:
        head: The first `LONGEST_HEADER` bytes of the uncompressed file, or all if there are fewer.
        where: What an error names.

    Raises:
        UnreadableScanError: If this is something else (E_NOT_NIFTI) or is too short (E_TRUNCATED).
    """
    for version, (offset, magic) in _MAGIC.items():
        if head[offset : offset + len(magic)] == magic and len(head) >= _HEADER_BYTES[version]:
            size = _HEADER_BYTES[version]
            kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
            return kind(head[:size], endianness=_endianness(head, size), check=False)
    raise _not_nifti(head, where)


def usable_header(header: nib.Nifti1Header, *, where: object) -> nib.Nifti1Header:
    """Check the fields that say how voxels are stored; return the header with harmless fields repaired.

    Args:
        header: As parsed.
        where: What an error names.

    Raises:
        IntensityError: If the voxels are colours, complex or wrongly scaled.
        GeometryError: If an orientation code is unknown.
        UnreadableScanError: If the type or the place of the voxels is unknown.
    """
    _check_datatype(int(header["datatype"]), where)
    _check_scaling(float(header["scl_slope"]), float(header["scl_inter"]), where)
    _check_codes(header, where)
    _check_offset(float(header["vox_offset"]), header.sizeof_hdr, where)
    _check_voxel_sizes(header, where)
    repaired = header.copy()
    repaired.check_fix(logger=_Repairs(_LOGGER, {"where": where}))
    return repaired


def scan_shape(header: nib.Nifti1Header, *, where: object) -> tuple[int, int, int]:
    """Return the three spatial dimensions; a fourth of one volume is dropped.

    Raises:
        GeometryError: If there are fewer or more dimensions (E_DIMENSIONS).
    """
    dims = [int(dim) for dim in header["dim"]]
    shape = dims[1 : dims[0] + 1]
    if not 1 <= dims[0] <= 7 or min(shape) < 1:
        raise dimensions_error(dims, where, "convert the scan again from its source")
    if len(shape) < 3:
        raise dimensions_error(shape, where, "give the whole three-dimensional scan")
    if len(shape) == 4 and shape[3] > 1:
        raise dimensions_error(shape, where, "keep one volume, for example with nibabel's image.slicer[..., 0]")
    if math.prod(shape[3:]) > 1:
        raise dimensions_error(shape, where, "keep one scalar value per voxel")
    return shape[0], shape[1], shape[2]


def voxel_byte_range(
    header: nib.Nifti1Header, shape: tuple[int, int, int], *, max_bytes: int | None, where: object
) -> tuple[int, int]:
    """Return where the voxels begin and end in the uncompressed file, in bytes.

    Args:
        header: A usable header.
        shape: The scan's shape.
        max_bytes: The most that the voxels may take as float32; None = any number.
        where: What an error names.

    Raises:
        UnreadableScanError: If the voxels would take more (E_TOO_LARGE).
    """
    check_size(shape, max_bytes, where)
    start = int(header["vox_offset"])
    return start, start + math.prod(shape) * header.get_data_dtype().itemsize


def native_geometry(header: nib.Nifti1Header, shape: tuple[int, int, int], *, where: object) -> NativeGeometry:
    """Collect what the header says about where the voxels lie.

    The sform is obeyed if it is set, else the qform; if neither is, nibabel's guess from the voxel sizes,
    with a warning, for then nobody knows left from right.

    Raises:
        GeometryError: If the affine or the voxel sizes it rests on make no sense.
    """
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    qform = _qform(header) if qform_code else None
    if sform_code == 0 and qform_code and qform is None:
        raise GeometryError("the qform is no rotation", where=where, remedy="convert the scan again from its source")
    if sform_code == 0 and qform_code == 0:
        warn_orientation_unknown(where, "sform_code and qform_code are 0")
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    geometry = array_geometry(shape, affine, where=where)
    if qform_code and qform is None:
        remark(where, "W_QFORM", "the qform is no rotation; the sform is used")
    native = NativeGeometry(
        shape=shape,
        affine=affine,
        sform_code=sform_code,
        qform_code=qform_code if qform is not None else 0,
        zooms=_zooms(header) or geometry.zooms,
        xyzt_units=int(header["xyzt_units"]),
        orientation=geometry.orientation,
        qform_parameters=_qform_parameters(header) if qform is not None else geometry.qform_parameters,
        nifti_version=2 if isinstance(header, nib.Nifti2Header) else 1,
    )
    if qform is not None:
        _warn_if_different(native, qform, where)
    return native


class _Repairs(logging.LoggerAdapter[logging.Logger]):
    # nibabel's remarks on repairs do not say which file they are about.
    def log(self, level: int, msg: object, *_: object, **__: Any) -> None:
        if level >= logging.WARNING and self.extra:
            remark(self.extra["where"], "W_REPAIRED", f"in the header, {msg}")


def _endianness(head: bytes, size: int) -> str | None:
    # nibabel guesses from the number of dimensions first, and so swaps all bytes if that is wrong.
    codes = {size.to_bytes(4, "little"): "<", size.to_bytes(4, "big"): ">"}
    return codes.get(head[:4])


def _zooms(header: nib.Nifti1Header) -> tuple[float, float, float] | None:
    x, y, z = (float(size) for size in header["pixdim"][1:4])
    return (x, y, z) if all(math.isfinite(size) and size > 0 for size in (x, y, z)) else None


def _qform(header: nib.Nifti1Header) -> Affine | None:
    try:
        qform = np.array(header.get_qform(), dtype=np.float64)
    except (ValueError, nib.spatialimages.HeaderDataError):
        return None
    return qform if np.isfinite(qform).all() else None


def _qform_parameters(header: nib.Nifti1Header) -> tuple[float, ...]:
    fields = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    return float(header["pixdim"][0]), *(float(header[field]) for field in fields)


def _warn_if_different(native: NativeGeometry, qform: Affine, where: object) -> None:
    corners = np.array([[*corner, 1] for corner in product(*((0, n) for n in native.shape))])
    distance = native.mm_per_unit * float(np.linalg.norm(corners @ (native.affine - qform).T, axis=1).max())
    if distance > SFORM_QFORM_TOLERANCE_MM:
        message = f"sform and qform differ by up to {distance:.1f} mm; the sform is used"
        remark(where, "W_SFORM_QFORM", message)


def _check_datatype(datatype: int, where: object) -> None:
    if datatype in _COLOUR_DATATYPES:
        raise IntensityError(
            "the voxels are colours", where=where, code="E_COLOUR", expected="one number", remedy="convert to grey"
        )
    if datatype in _COMPLEX_DATATYPES:
        raise IntensityError(
            "the voxels are complex", where=where, code="E_COMPLEX", expected="real", remedy="save the magnitude"
        )
    if datatype not in _REAL_DATATYPES:
        raise UnreadableScanError(
            "the voxel type is not supported",
            where=where,
            code="E_DATATYPE",
            found=f"NIfTI datatype {datatype}",
            expected="8- to 64-bit integers, float32 or float64",
            remedy="save the scan as float32",
        )


def _check_scaling(slope: float, inter: float, where: object) -> None:
    # A slope of 0 or NaN is NIfTI's way of saying "not scaled".
    if slope == 0 or math.isnan(slope):
        return
    if math.isinf(slope) or abs(slope) < SMALLEST_SLOPE or not math.isfinite(inter):
        raise IntensityError(
            "the scaling of the voxel values makes no sense",
            where=where,
            code="E_SCALING",
            found=f"slope {slope:g}, intercept {inter:g}",
            expected="finite numbers",
            remedy="correct scl_slope and scl_inter",
        )


def _check_codes(header: nib.Nifti1Header, where: object) -> None:
    for field in ("sform_code", "qform_code"):
        if int(header[field]) not in _KNOWN_CODES:
            raise GeometryError(
                f"unknown {field}",
                where=where,
                found=int(header[field]),
                expected="0 to 5",
                remedy="correct the header; guessing could swap left and right",
            )


def _check_voxel_sizes(header: nib.Nifti1Header, where: object) -> None:
    sizes = header["pixdim"][1:4]
    # With an sform, the affine does not rest on them.
    if int(header["sform_code"]) == 0 and not (np.isfinite(sizes) & (sizes != 0)).all():
        raise GeometryError(
            "the voxel sizes make no sense",
            where=where,
            found=[float(size) for size in sizes],
            expected="three lengths above 0",
            remedy="convert the scan again from its source",
        )


def _check_offset(offset: float, header_bytes: int, where: object) -> None:
    if not header_bytes <= offset <= _LARGEST_VOXEL_OFFSET:
        raise UnreadableScanError(
            "the header points to voxels outside the file",
            where=where,
            code="E_CORRUPT",
            found=f"vox_offset {offset:g}",
            expected=f"{header_bytes} to {_LARGEST_VOXEL_OFFSET}",
            remedy="copy or convert the file again",
        )


def _not_nifti(head: bytes, where: object) -> UnreadableScanError:
    if _is_cut_header(head):
        return UnreadableScanError(
            "the file ends within its header",
            where=where,
            code="E_TRUNCATED",
            found=f"{len(head)} bytes",
            remedy="copy or download it again",
        )
    what, remedy = _recognised(head)
    return UnreadableScanError(
        f"not a NIfTI file: {what}", where=where, code="E_NOT_NIFTI", expected=".nii or .nii.gz", remedy=remedy
    )


def _is_cut_header(head: bytes) -> bool:
    size = {int.from_bytes(head[:4], order) for order in ("little", "big")} if len(head) >= 4 else set()
    return any(_HEADER_BYTES[version] in size and len(head) < _HEADER_BYTES[version] for version in _HEADER_BYTES)


def _recognised(head: bytes) -> tuple[str, str]:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "it looks like a web page", "the download failed; download the file itself"
    for offset, signature, what, remedy in _NOT_NIFTI:
        if head[offset : offset + len(signature)] == signature:
            return what, remedy
    return "its beginning is unknown", "check that this is the right file"
