"""Reading scans: a file becomes a `Volume` or one typed error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Shaped

from mendscan.errors import GeometryError
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.chunks import open_voxels
from mendscan.volumes.dicom_headers import is_dicom
from mendscan.volumes.dicom_pixels import read_dicom
from mendscan.volumes.dicom_series import folder_name
from mendscan.volumes.faults import reading_errors
from mendscan.volumes.foreign import refuse_half_of_a_pair
from mendscan.volumes.intensities import NanPolicy
from mendscan.volumes.metaimage import is_metaimage, read_metaimage
from mendscan.volumes.nrrd import NRRD_MAGIC, read_nrrd
from mendscan.volumes.payload import CHUNK_VOXELS, float32_voxels
from mendscan.volumes.remarks import Remark, remark, remarks_kept
from mendscan.volumes.volume import NativeGeometry, Volume, array_geometry, oriented_volume, volume_from_array

__all__ = [
    "DEFAULT_MAX_BYTES",
    "SCAN_SUFFIXES",
    "STANDARD_READER",
    "Scan",
    "ScanReader",
    "as_volume",
    "case_name",
    "comes_from_dicom",
    "read_values",
    "read_volume",
]

Scan: TypeAlias = str | os.PathLike[str] | Volume | tuple[Shaped[np.ndarray, "I J K"], Shaped[np.ndarray, "4 4"]]
"""A file or folder that `read_volume` takes, a volume, or an array with its affine."""
_SAME_PLACE = 1e-3
"""By how much two affines of the same grid may differ, in the unit of the file."""
DEFAULT_MAX_BYTES = 4 * 2**30
"""4 GiB of float32 voxels: a cube of 1024 voxels along each edge."""

_AMBIGUOUS = ("W_SFORM_QFORM", "W_ORIENTATION")
"""Programs differ in where they see such a scan."""

SCAN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_HEAD_BYTES = 512
_SFORM_SCANNER = 1

_Format = Literal["NIfTI", "NRRD", "MetaImage", "DICOM"]


def read_volume(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    nan: NanPolicy = "refuse",
    strict: bool = False,
) -> Volume:
    """Read a scan: NIfTI, NRRD, MetaImage or a DICOM series; which it is, its content says and not its name.

    Length and checksum, where the format has one, are always verified.  Of NIfTI, the sform is obeyed if it is set,
    else the qform.

    Args:
        path: A ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` file, a DICOM file with many frames, a
            folder with one DICOM series, or FOLDER/FOLDER_sNUMBER for one of several.
        name: What the scan is called, in errors and warnings too; None = after its file, and these name the path.
        max_bytes: The most that the voxels may take as float32; checked before anything is allocated.
        nan: ``fill``: voxels that are NaN get the lowest value of the scan and are known as missing.
        strict: Refuse a scan whose sform and qform differ, or that does not say where left is.

    Returns:
        The scan in RAS+.

    Raises:
        UnreadableScanError: E_NOT_FOUND, E_ACCESS, E_NOT_REGULAR, E_EMPTY, E_NOT_NIFTI, E_TRUNCATED, E_CORRUPT,
            E_DATATYPE, E_TOO_LARGE, E_MEMORY; of a header beside its voxels E_UNSAFE_PATH and E_NO_DATA_FILE; of DICOM
            E_CODEC, E_NO_SERIES and E_SEVERAL_SERIES.
        GeometryError: E_DIMENSIONS or E_GEOMETRY; of DICOM E_MISSING_SLICES, E_SLICE_SPACING and E_SEVERAL_VOLUMES.
        IntensityError: E_COLOUR, E_COMPLEX, E_SCALING, E_NAN or E_CONSTANT.

    Example:
        >>> read_volume("missing.nii.gz")
        Traceback (most recent call last):
        ...
        mendscan.errors.UnreadableScanError: missing.nii.gz: no such file; check the path
    """
    where = os.fspath(path) if name is None else name
    with reading_errors(where), remarks_kept(logged=True) as remarks:
        voxels, native = _voxels_and_geometry(Path(path), max_bytes, where)
        volume = oriented_volume(voxels, native, name=case_name(path) if name is None else name, where=where, nan=nan)
        if strict:
            _refuse_ambiguous(remarks, where)
        return replace(volume, remarks=tuple(remarks))


@dataclass(frozen=True)
class ScanReader:
    """How the scans of a folder are read; every one in the same way, whatever process reads it.

    Attributes:
        max_bytes: The most that the voxels of one scan may take as float32.
        nan: What becomes of voxels that are NaN.
        strict: Whether scans are refused that programs place differently.
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    nan: NanPolicy = "refuse"
    strict: bool = False

    def __call__(self, path: str | os.PathLike[str], *, name: str | None = None) -> Volume:
        """Read a scan, as `read_volume`; what is odd about it is not logged, for folders are checked as a whole."""
        with remarks_kept():
            return read_volume(path, name=name, max_bytes=self.max_bytes, nan=self.nan, strict=self.strict)


STANDARD_READER = ScanReader()


def as_volume(scan: Scan, *, strict: bool = False) -> Volume:
    """Return a scan given in any way as a volume.

    Raises:
        ScanError: If it cannot be read or makes no sense, or, if `strict`, does not say clearly where it lies.
    """
    if isinstance(scan, Volume):
        if strict:
            _refuse_ambiguous(scan.remarks, scan.name)
        return scan
    if isinstance(scan, tuple):
        voxels, affine = scan
        return volume_from_array(voxels, affine, name="array")
    return read_volume(scan, strict=strict)


def read_values(path: str | os.PathLike[str], volume: Volume) -> VoxelsXYZ:
    """Read what `write_map` wrote for a scan.

    Unlike a scan, values may all be the same.

    Args:
        path: A ``.nii.gz`` file.
        volume: The scan that the values belong to.

    Returns:
        The values on the scan's RAS+ grid.

    Raises:
        GeometryError: If the file is not on the scan's grid (E_GRID).
        ScanError: As `read_volume`, if it cannot be read.
    """
    where = os.fspath(path)
    with reading_errors(where):
        values, native = _nifti(Path(path), DEFAULT_MAX_BYTES, where)
        if native.mm_per_unit != volume.native.mm_per_unit or not np.allclose(
            native.affine, volume.native.affine, atol=_SAME_PLACE
        ):
            raise GeometryError("the values do not overlay the scan", where=where, code="E_GRID", expected=volume.name)
        return volume.from_native(values)


def comes_from_dicom(scan: Path) -> bool:
    """Return whether a scan that `find_scans` listed is read from DICOM files, by their first bytes alone."""
    return _format_of(scan) == "DICOM"


def case_name(path: str | os.PathLike[str]) -> str:
    """Return the name of a file without ``.nii.gz``, ``.nrrd``, ``.dcm`` and the like, or that of a folder.

    Bytes that are no UTF-8 become escapes, as in tables: the files of results have names that these can hold.

    Example:
        >>> case_name("scans/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    name = folder_name(Path(path)).encode("utf-8", "backslashreplace").decode()
    for suffix in (*SCAN_SUFFIXES, ".dcm"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _refuse_ambiguous(remarks: Sequence[Remark], where: str) -> None:
    for each in remarks:
        if each.code in _AMBIGUOUS:
            raise GeometryError(
                "it is not certain where the scan lies",
                where=where,
                found=each.message,
                remedy="correct the header, or read it without --strict",
            )


def _voxels_and_geometry(path: Path, max_bytes: int, where: str) -> tuple[Float32[np.ndarray, "I J K"], NativeGeometry]:
    match _format_of(path):
        case "DICOM":
            voxels, affine = read_dicom(path, max_bytes=max_bytes, where=where)
            return voxels, array_geometry(voxels.shape, affine, where=where, sform_code=_SFORM_SCANNER)
        case "NRRD":
            voxels, affine = read_nrrd(path, max_bytes=max_bytes, where=where)
        case "MetaImage":
            voxels, affine = read_metaimage(path, max_bytes=max_bytes, where=where)
        case "NIfTI":
            return _nifti(path, max_bytes, where)
    return voxels, array_geometry(voxels.shape, affine, where=where)


def _format_of(path: Path) -> _Format:
    if path.is_dir() or not path.exists() or is_dicom(path):
        return "DICOM"
    if path.is_file():  # a pipe would keep its reader waiting
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(NRRD_MAGIC):
            return "NRRD"
        if is_metaimage(head):
            return "MetaImage"
    return "NIfTI"


def _nifti(path: Path, max_bytes: int, where: str) -> tuple[Float32[np.ndarray, "I J K"], NativeGeometry]:
    refuse_half_of_a_pair(path, where)
    with open_voxels(path, max_bytes=max_bytes, where=where) as stream:
        voxels = float32_voxels(
            stream.chunks(CHUNK_VOXELS),
            stream.shape,
            where=where,
            scaling=f"slope {stream.slope}, intercept {stream.intercept}",
            remedy="correct scl_slope and scl_inter",
        )
        if stream.native.mm_per_unit != 1.0:
            remark(where, "W_UNIT", "the spatial unit is not the millimetre; the affine is converted")
        return voxels, stream.native
