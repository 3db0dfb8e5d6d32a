"""Writing files: whole or not at all, and the same bytes for the same content.

Every write goes to a temporary file beside its target, is flushed to the disk, read back, and only then put in
place.  Whoever finds a file under its final name finds all of it.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Integer, Shaped

from mendscan.errors import GeometryError, WriteError
from mendscan.shapes import Affine
from mendscan.volumes.volume import NativeGeometry, Volume

__all__ = [
    "make_folder",
    "remove_leftovers",
    "write_bytes",
    "write_chunks",
    "write_errors",
    "write_json",
    "write_labels",
    "write_map",
    "write_scan",
    "write_text",
]

GZIP_LEVEL = 1
"""Higher levels take twice the time, and floating-point maps hardly become smaller."""
MAX_QFORM_SHEAR = 1e-4
"""Largest cosine between two voxel axes that still counts as a right angle; a qform holds only right angles."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOGGER = logging.getLogger(__name__)
_EXTENSION_FLAG = bytes(4)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically: afterwards it is complete, or as it was before.

    Args:
        path: The file; its folder must exist.
        data: The content.

    Raises:
        WriteError: If it cannot be written; what was there before is intact and no temporary file is left.
    """
    with _put_in_place(Path(path), where=path) as temporary:
        _write_through(temporary, data)


def write_chunks(
    path: str | os.PathLike[str], chunks: Iterable[bytes], *, check: Callable[[Path, str], None] | None = None
) -> str:
    """Write a file atomically, piece by piece, so that it is never in memory as a whole.

    Args:
        path: The file; its folder must exist.
        chunks: The content, piece by piece.  A `MendscanError` raised while it is made is raised as it is.
        check: Told of the temporary file, complete and flushed, and its SHA-256, before it is put in place.  If it
            raises, the file is not put in place.

    Returns:
        The SHA-256 of the content, in hexadecimal.

    Raises:
        WriteError: If it cannot be written; what was there before is intact and no temporary file is left.
    """
    with _put_in_place(Path(path), where=path) as temporary:
        digest = _write_chunks_through(temporary, chunks)
        if check is not None:
            check(temporary, digest)
    return digest


@contextmanager
def write_errors(where: object, *, needed: int | None = None) -> Iterator[None]:
    """Turn what the system says of a failed write in the block into a `WriteError` that names the file.

    Args:
        where: The file.
        needed: Its size in bytes, where that is known.

    Raises:
        WriteError: E_NO_SPACE with the space that is left, if there is too little; else E_WRITE.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        full = getattr(error, "errno", None) in _NO_SPACE
        raise WriteError(
            "the file cannot be written",
            where=where,
            code="E_NO_SPACE" if full else None,
            found=f"{getattr(error, 'strerror', None) or error}{_space_left(where) if full else ''}",
            expected=f"{needed / 1e6:.1f} MB" if full and needed else None,
            remedy="check that the folder exists, may be written to and has space left",
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder that nobody else writes to now."""
    for path in folder.glob(f".{'[0-9a-f]' * 16}.tmp"):
        _remove(path)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, unless they are there; return it.

    Raises:
        WriteError: If it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            "the folder cannot be made", where=folder, found=error.strerror, remedy="name another folder"
        ) from error
    return folder


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, atomically, with the line ends as they are.

    Args:
        path: The file; its folder must exist.
        text: The content.  What UTF-8 cannot hold, as in undecodable file names, is written as an escape.

    Raises:
        WriteError: If it cannot be written; what was there before is intact.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value as JSON, atomically, with sorted keys, so that the same value gives the same bytes.

    Args:
        path: The file; its folder must exist.
        value: Dictionaries, lists, text, numbers, truth values, None; no NaN, which JSON does not know.

    Raises:
        WriteError: If the value is not JSON (E_JSON) or the file cannot be written.
    """
    try:
        text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise WriteError("the value cannot be written as JSON", where=path, code="E_JSON", found=str(error)) from error
    write_text(path, text + "\n")


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


@contextmanager
def _put_in_place(target: Path, *, where: object) -> Iterator[Path]:
    """Give the block a temporary name; what it has written there replaces the target, unless it raises."""
    # The name does not grow with the target's, which may be as long as names can be.
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with write_errors(where):
            yield temporary
            temporary.replace(target)
    finally:
        _remove(temporary)
    _flush_folder(target.parent)


def _space_left(where: object) -> str:
    try:
        free = shutil.disk_usage(Path(str(where)).parent).free
    except (OSError, ValueError):
        return ""
    return f", {free / 1e6:.1f} MB free"


def _write_chunks_through(temporary: Path, chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    with temporary.open("xb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    with temporary.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest.hexdigest():
            raise OSError("what was read back differs from what was written")
    return digest.hexdigest()


def _write_through(temporary: Path, data: bytes) -> None:
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if temporary.read_bytes() != data:
        raise OSError("what was read back differs from what was written")


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        _LOGGER.debug("temporary file not removed: %s", type(error).__name__)


def _flush_folder(folder: Path) -> None:
    # The file is complete by now; without this, a power cut could still bring back the old one.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _LOGGER.warning("%s: the folder could not be flushed to the disk (%s)", folder, error.strerror)


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
