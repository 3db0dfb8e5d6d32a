"""Reading scans: a file becomes a `Volume` or one typed error."""

from __future__ import annotations

import itertools
import logging
import math
import os
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mendscan.errors import CohortError, GeometryError, IntensityError
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.chunks import VoxelStream, open_voxels, reading_errors
from mendscan.volumes.volume import Volume, oriented_volume

__all__ = ["DEFAULT_MAX_BYTES", "case_name", "find_scans", "read_values", "read_volume"]

DEFAULT_MAX_BYTES = 4 * 2**30
"""4 GiB of float32 voxels: a cube of 1024 voxels along each edge."""

_LOGGER = logging.getLogger(__name__)
_SUFFIXES = (".nii.gz", ".nii")
_CHUNK_VOXELS = 2**18
_SHOWN_DUPLICATES = 5


def read_volume(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 scan, compressed or not, whatever its name says.

    The sform is obeyed if it is set, else the qform.  Length and, for gzip, checksum are always verified.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        max_bytes: The most that the voxels may take as float32; checked before anything is allocated.

    Returns:
        The scan in RAS+.

    Raises:
        UnreadableScanError: E_NOT_FOUND, E_ACCESS, E_NOT_REGULAR, E_EMPTY, E_NOT_NIFTI, E_TRUNCATED, E_CORRUPT,
            E_DATATYPE, E_TOO_LARGE or E_MEMORY.
        GeometryError: E_DIMENSIONS or E_GEOMETRY.
        IntensityError: E_COLOUR, E_COMPLEX, E_SCALING, E_NAN or E_CONSTANT.

    Example:
        >>> read_volume("missing.nii.gz")
        Traceback (most recent call last):
        ...
        mendscan.errors.UnreadableScanError: missing.nii.gz: no such file; check the path
    """
    where = os.fspath(path)
    with reading_errors(where), open_voxels(where, max_bytes=max_bytes) as stream:
        voxels = _float32_voxels(stream, where)
        native = stream.native
        if native.mm_per_unit != 1.0:
            _LOGGER.warning("%s: the spatial unit is not the millimetre; the affine is converted", where)
        return oriented_volume(voxels, native, name=case_name(where), where=where)


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
    with reading_errors(where), open_voxels(where, max_bytes=DEFAULT_MAX_BYTES) as stream:
        if not np.allclose(
            stream.affine, np.diag([volume.native.mm_per_unit] * 3 + [1.0]) @ volume.native.affine, atol=1e-3
        ):
            raise GeometryError("the values do not overlay the scan", where=where, code="E_GRID", expected=volume.name)
        return volume.from_native(_float32_voxels(stream, where))


def find_scans(path: str | os.PathLike[str]) -> list[Path]:
    """List the scans of a folder, at any depth, or the one file given.

    Hidden files and folders, such as the ``._`` files of macOS, are skipped; links to files are followed.

    Args:
        path: A scan or a folder.

    Returns:
        Paths in a stable order: by name, folder by folder.

    Raises:
        CohortError: E_NOT_FOUND, E_ACCESS, E_NO_SCANS, or E_DUPLICATE_NAME if two scans have the same case name,
            for their results would overwrite each other.
    """
    root = Path(path)
    if not root.is_dir():
        if not root.exists():
            raise CohortError("no such file or folder", where=path, code="E_NOT_FOUND", remedy="check the path")
        return [root]
    scans = sorted(_scans_below(root))
    if not scans:
        raise CohortError(
            "no scans found", where=path, code="E_NO_SCANS", expected=".nii or .nii.gz files", remedy="check the path"
        )
    _check_case_names(scans, path)
    return scans


def case_name(path: str | os.PathLike[str]) -> str:
    """Return a file's name without ``.nii`` or ``.nii.gz``.

    Example:
        >>> case_name("scans/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    name = Path(path).name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _float32_voxels(stream: VoxelStream, where: str) -> Float32[np.ndarray, "I J K"]:
    voxels = np.empty(math.prod(stream.shape), np.float32)
    done = overflowed = 0
    for chunk in stream.chunks(_CHUNK_VOXELS):
        part = voxels[done : done + chunk.size]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below, in words
            part[:] = chunk
        overflowed += int(np.count_nonzero(np.isfinite(chunk) & ~np.isfinite(part)))
        done += chunk.size
    if overflowed:
        raise IntensityError(
            "scaled voxel values are too large for float32",
            where=where,
            code="E_SCALING",
            found=f"{overflowed} voxels, slope {stream.slope}, intercept {stream.intercept}",
            remedy="correct scl_slope and scl_inter",
        )
    return voxels.reshape(stream.shape, order="F")


def _scans_below(root: Path) -> list[Path]:
    scans = []
    for folder, subfolders, names in os.walk(root, onerror=_raise_unlisted):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        visible = (name for name in names if not name.startswith("."))
        scans += [Path(folder, name) for name in visible if name.lower().endswith(_SUFFIXES)]
    return scans


def _raise_unlisted(error: OSError) -> None:
    raise CohortError(
        "the folder cannot be listed", where=error.filename, code="E_ACCESS", found=error.strerror
    ) from error


def _check_case_names(scans: list[Path], path: str | os.PathLike[str]) -> None:
    paths_of = defaultdict(list)
    for scan in scans:
        # Some file systems hold neither upper and lower case nor two spellings of an accent apart.
        paths_of[unicodedata.normalize("NFC", case_name(scan)).casefold()].append(os.fspath(scan))
    duplicates = [paths for paths in paths_of.values() if len(paths) > 1]
    if duplicates:
        shown = [" and ".join(paths) for paths in itertools.islice(duplicates, _SHOWN_DUPLICATES)]
        raise CohortError(
            "scans with the same case name",
            where=path,
            code="E_DUPLICATE_NAME",
            found=f"{len(duplicates)} times: {'; '.join(shown)}",
            expected="one file per name",
            remedy="rename them or run them apart",
        )
