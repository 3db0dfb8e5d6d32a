"""Writing what belongs to a scan, voxel by voxel, as NIfTI files that overlay it exactly."""

from __future__ import annotations

import gzip
import io
import os

import nibabel as nib
import numpy as np
from jaxtyping import Integer, Shaped

from mendscan.errors import GeometryError, WriteError
from mendscan.shapes import Affine
from mendscan.volumes.volume import NativeGeometry, Volume
from mendscan.volumes.writing import write_bytes

__all__ = ["GZIP_LEVEL", "MAX_QFORM_SHEAR", "write_labels", "write_map", "write_scan"]

GZIP_LEVEL = 1
"""Higher levels take twice the time, and floating-point maps hardly become smaller."""
MAX_QFORM_SHEAR = 1e-4
"""Largest cosine between two voxel axes that still counts as a right angle; a qform holds only right angles."""

_EXTENSION_FLAG = bytes(4)


def write_map(path: str | os.PathLike[str], values_XYZ: Shaped[np.ndarray, "X Y Z"], volume: Volume) -> None:
    """Write one value per voxel of a scan as a NIfTI file that overlays the scan exactly.

    The header is new and takes over only geometry: shape, affine, codes, voxel sizes and units, but no
    description, name or extension of the scan.  A qform cannot hold a sheared affine and is then left out.

    Args:
        path: A ``.nii.gz`` file; its folder must exist.
        values_XYZ: Values on the volume's RAS+ grid; written as float32.
        volume: The scan that the values belong to.

    Raises:
        GeometryError: If the shape is not the volume's (E_GRID), or a new header cannot hold its affine.
        WriteError: If the name does not end in ``.nii.gz`` (E_NAME) or the file cannot be written.
    """
    _write_nifti(path, values_XYZ, volume, "<f4")


def write_labels(path: str | os.PathLike[str], labels_XYZ: Integer[np.ndarray, "X Y Z"], volume: Volume) -> None:
    """Write one whole number per voxel of a scan, as `write_map` writes values; uint8, or uint16 for more than 255.

    Args:
        path: A ``.nii.gz`` file; its folder must exist.
        labels_XYZ: From 0 to 65 535, on the volume's RAS+ grid.
        volume: The scan that the labels belong to.

    Raises:
        GeometryError: As `write_map`.
        WriteError: As `write_map`.
    """
    _write_nifti(path, labels_XYZ, volume, "|u1" if labels_XYZ.max(initial=0) < 256 else "<u2")


def write_scan(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a scan itself, as `write_map` writes values, without anything of its header but the geometry.

    Values are exact: whole numbers are written in the smallest type that holds them all, others as float32.

    Args:
        path: A ``.nii.gz`` file; its folder must exist.
        volume: The scan.

    Raises:
        GeometryError: As `write_map`.
        WriteError: As `write_map`.
    """
    _write_nifti(path, volume.voxels_XYZ, volume, _exact_type(volume.voxels_XYZ))


def _exact_type(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    for number_type in ("|u1", "<i2", "<u2"):
        limits = np.iinfo(number_type)
        if limits.min <= low and high <= limits.max:
            return number_type if bool((values == np.rint(values)).all()) else "<f4"
    return "<f4"


def _write_nifti(path: str | os.PathLike[str], values_XYZ: np.ndarray, volume: Volume, number_type: str) -> None:
    if not os.fspath(path).endswith(".nii.gz"):
        raise WriteError("a map needs a name in .nii.gz", where=path, code="E_NAME", expected=".nii.gz")
    values = volume.to_native(values_XYZ).astype(number_type)
    header = _new_header(volume.native, number_type, where=path)
    write_bytes(path, _gzipped(header.binaryblock + _EXTENSION_FLAG + values.tobytes(order="F")))


def _gzipped(data: bytes) -> bytes:
    compressed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=compressed, mtime=0) as stream:
        stream.write(data)
    return compressed.getvalue()


def _new_header(native: NativeGeometry, number_type: str, *, where: object) -> nib.Nifti1Header:
    kind = nib.Nifti1Header if native.nifti_version == 1 else nib.Nifti2Header
    header = kind(endianness="<")
    header.set_data_shape(native.shape)
    header.set_data_dtype(number_type)
    header.set_slope_inter(1.0, 0.0)
    header.set_data_offset(header.sizeof_hdr + len(_EXTENSION_FLAG))
    header.set_zooms(native.zooms)
    header["xyzt_units"] = native.xyzt_units
    if native.sform_code:
        header.set_sform(native.affine, native.sform_code)
    if native.qform_code and not _is_sheared(native.affine):
        _set_qform(header, native)
    _check_same_affine(header, native, where)
    return header


def _set_qform(header: nib.Nifti1Header, native: NativeGeometry) -> None:
    header["qform_code"] = native.qform_code
    header["pixdim"][0] = native.qform_parameters[0]
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = native.qform_parameters[1:4]
    header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = native.qform_parameters[4:7]


def _is_sheared(affine: Affine) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > MAX_QFORM_SHEAR)


def _check_same_affine(header: nib.Nifti1Header, native: NativeGeometry, where: object) -> None:
    written = header.get_best_affine()
    if not np.allclose(written, native.affine, rtol=1e-6, atol=1e-4):
        raise GeometryError(
            "a NIfTI header cannot hold the affine of the scan",
            where=where,
            found=written.tolist(),
            expected=native.affine.tolist(),
        )
