"""Rows 41 to 60: intensities and geometry."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from attacks.attack import Elsewhere, checked
from attacks.header_level import header
from mendscan.volumes.reading import ScanReader
from volumes.test_reading import AFFINE, FOUR_DIMENSIONAL, SHAPE, nifti, voxels_of, with_voxel


def of_shape(*shape: int) -> bytes:
    return nifti(voxels_of(shape=shape))


def with_spacing(*mm: float) -> bytes:
    return nifti(affine=np.diag([*mm, 1.0]))


def turned(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) @ AFFINE


def padded(value: int) -> bytes:
    voxels = voxels_of()
    voxels[:2] = value
    return nifti(voxels)


def one_voxel() -> bytes:
    """All the same but for one."""
    voxels = np.zeros(SHAPE, np.int16)
    voxels[3, 3, 3] = 1
    return nifti(voxels)


GATE, VOLUME = "detection/test_gate.py", "volumes/test_volume.py"
MANY_AXES = nib.Nifti1Image(voxels_of(shape=(8, 9, 10, 1, 3)), AFFINE).to_bytes()
FLAT_VOXELS = nifti(voxels_of(shape=(40, 40, 8)), np.diag([0.5, 0.5, 6, 1]))
FAR = np.array([[-2.0, 0, 0, 1e6], [0, 1.5, 0, 1e6], [0, 0, 3, 1e6], [0, 0, 0, 1]])
PAD = "an intensity as any other; percentiles and the gate judge it at detection"
NONE_LOST = "flips and permutations alone turn it to RAS+, and the stored ones turn results back"

FILLING = ScanReader(nan="fill")

VOXEL_LEVEL = (
    header(41, "some voxels NaN", "E_NAN", with_voxel(np.nan)),
    header(41, "the same, --nan fill", "W_NAN", with_voxel(np.nan), through=FILLING),
    header(42, "all voxels NaN", "E_NAN", nifti(np.full(SHAPE, np.nan, np.float32))),
    header(42, "the same, --nan fill", "E_NAN", nifti(np.full(SHAPE, np.nan, np.float32)), through=FILLING),
    header(42, "voxels infinite", "E_NAN", with_voxel(np.inf)),
    header(42, "voxels minus infinite", "E_NAN", with_voxel(-np.inf)),
    header(43, "all voxels 7", "E_CONSTANT", nifti(np.full(SHAPE, 7, np.int16))),
    header(43, "all voxels 0", "E_CONSTANT", nifti(np.zeros(SHAPE, np.float32))),
    header(44, "all voxels the same but one", "W_LABELS", one_voxel(), through=checked),
    header(45, "two voxels 1e30", "E_SCALING", with_voxel(1e30)),
    header(45, "two voxels 1e10", "", with_voxel(1e10), "percentiles set the scale; intensities are clipped"),
    header(45, "values beyond float32", "E_SCALING", nifti(voxels_of(np.float64) * 1e300)),
    header(46, "background and a speck", "W_LABELS", one_voxel(), through=checked),
    header(47, "padded with -32768", "", padded(-32768), PAD),
    header(47, "CT padded with -3024", "", padded(-3024), PAD),
    Elsewhere(48, "intensities on another scale, or inverted", "a warning", GATE, "test_what_is_unusual_is_said"),
    Elsewhere(49, "CT for a model of MR, and the reverse", "a warning", GATE, "test_what_is_unusual_is_said"),
    header(50, "binary volume", "W_LABELS", nifti((voxels_of() > 99).astype(np.uint8)), through=checked),
    header(51, "4-D of one volume", "", of_shape(8, 9, 10, 1), "it is a volume"),
    header(51, "4-D of three volumes", "E_DIMENSIONS", FOUR_DIMENSIONAL),
    header(51, "5-D", "E_DIMENSIONS", MANY_AXES),
    header(51, "2-D", "E_DIMENSIONS", of_shape(20, 30)),
    header(52, "one slice", "E_DIMENSIONS", of_shape(20, 30, 1)),
    header(52, "three slices", "E_DIMENSIONS", of_shape(20, 30, 3)),
    header(52, "4 x 4 x 4 voxels", "", of_shape(4, 4, 4), "the least that is read; it is resampled"),
    header(
        53, "0.5 x 0.5 x 6 mm", "", nifti(voxels_of(shape=(40, 40, 8)), np.diag([0.5, 0.5, 6, 1])), "it is resampled"
    ),
    header(54, "0.01 mm", "W_EXTENT", with_spacing(0.01, 0.01, 0.01), through=checked),
    header(54, "500 mm", "W_EXTENT", with_spacing(500, 500, 500), through=checked),
    header(55, "oblique by 45°", "", nifti(affine=turned(45)), NONE_LOST),
    header(55, "oblique by 20°", "", nifti(affine=turned(20)), NONE_LOST),
    Elsewhere(
        55, "each of 48 orientations", "accepted", VOLUME, "test_scan_turns_to_ras_and_its_map_comes_back_exactly"
    ),
    header(56, "left-handed affine", "", nifti(affine=np.diag([-2.0, 1.5, 3.0, 1.0])), NONE_LOST),
    Elsewhere(
        57,
        "label of another grid than its scan",
        "an error",
        "evaluation/test_folders.py",
        "test_a_map_elsewhere_in_space_is_an_error",
    ),
    header(58, "odd sizes", "", of_shape(17, 19, 13), "any size is read"),
    Elsewhere(59, "cropped, or another part of the body", "a warning", GATE, "test_what_is_unusual_is_said"),
    header(60, "origin at 10⁶ mm", "", nifti(affine=FAR), "positions are float64; results lie where the scan lies"),
)
