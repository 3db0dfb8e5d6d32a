"""One scan: voxels in RAS+, where they lie in millimetres, and the way back to the file's own axes.

Only axis flips and permutations happen here, so that nothing is interpolated: an oblique scan stays oblique.
The forward permutation is computed once, from the file's affine, and stored; the way back inverts what was
stored.  Computing it again from the reoriented affine can choose other axes for scans near 45 degrees.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped

from mendscan.errors import GeometryError, IntensityError
from mendscan.shapes import Affine, VoxelsXYZ
from mendscan.volumes.intensities import NanPolicy, usable_voxels
from mendscan.volumes.remarks import Remark

__all__ = ["NativeGeometry", "Volume", "array_geometry", "oriented_volume", "ras_orientation", "volume_from_array"]

MIN_VOXELS_PER_AXIS = 4
"""Fewer slices than this are a localiser or a mistake, not a scan."""
MAX_AFFINE = 1e12
"""A thousand times around the Earth in mm: far above it, determinants overflow."""
MIN_RELATIVE_DETERMINANT = 1e-6
"""Volume of a voxel over that of a box with the same edges: below this, two axes are the same line."""

_UNIT_CODE_MM = 2
_MM_PER_UNIT = {1: 1000.0, _UNIT_CODE_MM: 1.0, 3: 0.001}
_SPATIAL_UNIT_BITS = 0b111
_SFORM_ALIGNED = 2

Orientation = tuple[tuple[int, int], ...]
"""For each axis of the file: the RAS+ axis it becomes, and 1, or -1 if it is flipped (nibabel's orientation)."""


@dataclass(frozen=True, eq=False)
class NativeGeometry:
    """What a file said about where its voxels lie, kept so that a map can say exactly the same.

    Attributes:
        shape: Voxels along the file's own axes.
        affine: Voxel index of the file to its spatial unit.
        sform_code: The file's code; 0 = its sform is not set.
        qform_code: The file's code; 0 = its qform is not set.
        zooms: Voxel sizes of the header, in the file's spatial unit.
        xyzt_units: NIfTI's code of the spatial and the time unit.
        orientation: The forward transform, file axes to RAS+.
        qform_parameters: As stored: qfac, quaternion b, c, d, offset x, y, z.
        nifti_version: 1 or 2.
    """

    shape: tuple[int, int, int]
    affine: Affine
    sform_code: int
    qform_code: int
    zooms: tuple[float, float, float]
    xyzt_units: int
    orientation: Orientation
    qform_parameters: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    nifti_version: int = 1

    @property
    def mm_per_unit(self) -> float:
        """Millimetres in the file's spatial unit; an unknown unit is taken for millimetres."""
        return _MM_PER_UNIT.get(self.xyzt_units & _SPATIAL_UNIT_BITS, 1.0)


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in RAS+, with its affine and the way back to the file's own axes.

    Attributes:
        voxels_XYZ: Intensities, finite, read-only; the axes are those nearest to right, anterior, superior.
        affine: Index into `voxels_XYZ` to millimetres in RAS+.
        name: Case name: the file's name without ``.nii`` or ``.nii.gz``.
        native: The geometry of the file.
        remarks: What is odd about the file, although it can be used.
        missing_XYZ: Voxels that had no value in the file and were filled; None if there are none.

    Example:
        >>> left_to_right_flipped = np.diag([-2.0, 2.0, 3.0, 1.0])
        >>> voxels = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
        >>> volume = volume_from_array(voxels, left_to_right_flipped, name="case1")
        >>> bool((volume.voxels_XYZ == voxels[::-1]).all())
        True
        >>> volume.spacing_mm
        (2.0, 2.0, 3.0)
        >>> bool((volume.to_native(volume.voxels_XYZ) == voxels).all())
        True
    """

    voxels_XYZ: VoxelsXYZ
    affine: Affine
    name: str
    native: NativeGeometry
    remarks: tuple[Remark, ...] = ()
    missing_XYZ: Bool[np.ndarray, "X Y Z"] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along right, anterior and superior."""
        x, y, z = self.voxels_XYZ.shape
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each axis, in millimetres."""
        return _column_norms(self.affine)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the field of view along each axis, voxel edge to voxel edge, in millimetres."""
        x, y, z = (count * spacing for count, spacing in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    @cached_property
    def content_hash(self) -> str:
        """SHA-256, in hex, of voxels and affine in RAS+: the same for .nii and .nii.gz and any order of the axes."""
        digest = hashlib.sha256(np.asarray(self.shape, dtype="<i8").tobytes())
        # Rounded, because reorienting adds up other floats; + 0.0 turns -0.0 into 0.0.
        digest.update((self.affine.round(3) + 0.0).astype("<f8").tobytes())
        digest.update(np.ascontiguousarray(self.voxels_XYZ, dtype="<f4").data)
        if self.missing_XYZ is not None:
            digest.update(np.packbits(self.missing_XYZ).data)
        return digest.hexdigest()

    def to_native(self, values_XYZ: Shaped[np.ndarray, "X Y Z"]) -> np.ndarray:
        """Return values on this volume's RAS+ grid in the axis order of the file.

        The exact inverse of the transform applied when the scan was read.

        Args:
            values_XYZ: One value per voxel, of any type.

        Returns:
            The same values, with the file's shape.

        Raises:
            GeometryError: If the shape is not this volume's.
        """
        if values_XYZ.shape != self.shape:
            raise GeometryError(
                "the values are not on the grid of the scan",
                where=self.name,
                code="E_GRID",
                found=values_XYZ.shape,
                expected=self.shape,
            )
        ras_axes = [ras_axis for ras_axis, _ in self.native.orientation]
        return np.ascontiguousarray(values_XYZ.transpose(ras_axes)[_flips(self.native.orientation)])

    def from_native(self, values_IJK: Shaped[np.ndarray, "I J K"]) -> np.ndarray:
        """Return values in the axis order of the file on this volume's RAS+ grid: the way back from `to_native`.

        Raises:
            GeometryError: If the shape is not the file's.
        """
        if values_IJK.shape != self.native.shape:
            raise GeometryError(
                "the values are not on the grid of the scan",
                where=self.name,
                code="E_GRID",
                found=values_IJK.shape,
                expected=self.native.shape,
            )
        return np.ascontiguousarray(_to_ras(values_IJK, self.native.orientation))

    def native_index(self, index_XYZ: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
        """Return a position in this volume's voxels as a position in voxels of the file's own axes."""
        native = self.native
        return np.array(
            [
                index_XYZ[axis] if direction > 0 else length - 1 - index_XYZ[axis]
                for length, (axis, direction) in zip(native.shape, native.orientation, strict=True)
            ]
        )


def volume_from_array(voxels: np.ndarray, affine: np.ndarray, *, name: str, nan: NanPolicy = "refuse") -> Volume:
    """Make a volume from an array in any axis order and its affine.

    Args:
        voxels: Intensities, real and finite, in three dimensions of at least 4.  The array is copied.
        affine: Index into `voxels` to millimetres in RAS+, 4 x 4, as nibabel gives it.
        name: Case name.
        nan: ``fill``: voxels that are NaN get the lowest value and are known as missing.

    Returns:
        The volume in RAS+; `to_native` leads back to the axis order of `voxels`.

    Raises:
        GeometryError: If shape or affine make no sense.
        IntensityError: If the values are complex, not finite, too large for float32 or all the same.
    """
    if voxels.dtype.kind not in "buif":
        raise IntensityError(
            "the voxels are not real numbers",
            where=name,
            code="E_COMPLEX" if voxels.dtype.kind == "c" else "E_DATATYPE",
            found=voxels.dtype,
            expected="integers or floating point",
        )
    while voxels.ndim > 3 and voxels.shape[-1] == 1:  # as files have them
        voxels = voxels[..., 0]
    _check_shape(voxels.shape, name)
    with np.errstate(over="ignore", invalid="ignore"):
        voxels_float32 = voxels.astype(np.float32)
    overflowed = int(np.count_nonzero(np.isfinite(voxels) & ~np.isfinite(voxels_float32)))
    if overflowed:
        raise IntensityError(
            "voxel values are too large for float32",
            where=name,
            code="E_SCALING",
            found=f"{overflowed} voxels",
            remedy="give them in another unit",
        )
    native = array_geometry(voxels.shape, affine.astype(np.float64), where=name)
    return oriented_volume(voxels_float32, native, name=name, where=name, nan=nan)


def array_geometry(
    shape: tuple[int, ...], affine: np.ndarray, *, where: object, sform_code: int = _SFORM_ALIGNED
) -> NativeGeometry:
    """Describe an array that comes from no NIfTI file: sform "aligned" or another, no qform, millimetres."""
    i, j, k = shape
    orientation = ras_orientation(affine, where=where)
    return NativeGeometry((i, j, k), affine, sform_code, 0, _column_norms(affine), _UNIT_CODE_MM, orientation)


def oriented_volume(
    voxels: Float32[np.ndarray, "I J K"],
    native: NativeGeometry,
    *,
    name: str,
    where: object,
    nan: NanPolicy = "refuse",
) -> Volume:
    """Check voxels in the file's axis order and turn them to RAS+.

    Args:
        voxels: Intensities along the file's axes.
        native: The geometry of the file.
        name: Case name.
        where: What an error names: the file as the user gave it.
        nan: What becomes of voxels that are NaN.

    Returns:
        The volume; its voxels are a read-only copy in C order.

    Raises:
        GeometryError: If an axis has fewer than 4 voxels.
        IntensityError: If voxels are not finite, too large or all the same.
    """
    _check_shape(voxels.shape, where)
    voxels, missing = usable_voxels(voxels, nan=nan, where=where)
    voxels_XYZ = np.array(_to_ras(voxels, native.orientation), order="C")
    voxels_XYZ.flags.writeable = False
    to_mm = np.diag([native.mm_per_unit] * 3 + [1.0])
    return Volume(
        voxels_XYZ,
        to_mm @ native.affine @ _ras_to_native_index(native),
        name,
        native,
        missing_XYZ=None if missing is None else np.array(_to_ras(missing, native.orientation), order="C"),
    )


def ras_orientation(affine: np.ndarray, *, where: object) -> Orientation:
    """Find the nearest RAS+ axis for each axis of a file.

    Args:
        affine: Voxel index of the file to millimetres, 4 x 4.
        where: What an error names.

    Returns:
        For each axis of the file: the RAS+ axis it becomes, and 1, or -1 if it is flipped.

    Raises:
        GeometryError: If the affine is not finite, beyond all measure, or maps different voxels to the same place.

    Example:
        >>> ras_orientation(np.diag([-1.0, 1.0, 1.0, 1.0]), where="a.nii")
        ((0, -1), (1, 1), (2, 1))
    """
    is_map = affine.shape == (4, 4) and bool((np.abs(affine) <= MAX_AFFINE).all())  # NaN is not below it either
    if not is_map or not (affine[3] == [0, 0, 0, 1]).all():
        raise GeometryError(
            "the affine is not a map to millimetres",
            where=where,
            found=affine.tolist(),
            expected="4 x 4 numbers up to 1e12, the last row 0 0 0 1",
            remedy="convert the scan again from its source",
        )
    # Relative to the edges: a small determinant alone only means small voxels.
    box = np.prod(_column_norms(affine))
    if box == 0 or abs(np.linalg.det(affine[:3, :3])) < MIN_RELATIVE_DETERMINANT * box:
        raise GeometryError(
            "the affine is singular: different voxels lie at the same place",
            where=where,
            found=affine[:3, :3].tolist(),
            expected="three independent axes",
            remedy="convert the scan again from its source",
        )
    return tuple((int(ras_axis), int(flip)) for ras_axis, flip in nib.io_orientation(affine))


def _column_norms(affine: Affine) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z


def _flips(orientation: Orientation) -> tuple[slice, ...]:
    return tuple(slice(None, None, flip) for _, flip in orientation)


def _to_ras(values_IJK: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Return a view with the axes of RAS+."""
    return values_IJK[_flips(orientation)].transpose(np.argsort([ras_axis for ras_axis, _ in orientation]))


def _ras_to_native_index(native: NativeGeometry) -> Affine:
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for native_axis, (ras_axis, flip) in enumerate(native.orientation):
        matrix[native_axis, ras_axis] = flip
        matrix[native_axis, 3] = 0 if flip > 0 else native.shape[native_axis] - 1
    return matrix


def _check_shape(shape: tuple[int, ...], where: object) -> None:
    if len(shape) != 3 or min(shape) < MIN_VOXELS_PER_AXIS:
        raise GeometryError(
            "too few voxels along an axis",
            where=where,
            code="E_DIMENSIONS",
            found=" x ".join(map(str, shape)),
            expected=f"three axes of at least {MIN_VOXELS_PER_AXIS} voxels",
            remedy="give the whole three-dimensional scan",
        )
