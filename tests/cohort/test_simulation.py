"""Simulated healthy cohorts: reproducible, plausible, and as mixed as collected scans."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mendscan.cohort import simulation
from mendscan.cohort.simulation import load_template, random_warp, simulate_brain, simulate_cohort
from mendscan.errors import SettingsError
from mendscan.volumes.reading import read_volume

needs_template = pytest.mark.skipif(
    importlib.util.find_spec("nilearn") is None, reason="the MNI152 template comes with nilearn (mendscan[demo])"
)
COARSE_MM = (4.0, 4.0, 4.0)


def brain(seed: int, spacing_mm: tuple[float, float, float] = COARSE_MM) -> tuple[np.ndarray, np.ndarray]:
    return simulate_brain(load_template(), rng=np.random.default_rng(seed), spacing_mm=spacing_mm)


def jacobian_determinant(displacement_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    rows = [np.stack(np.gradient(step, spacing_mm)) for step in displacement_mm]
    return np.linalg.det(np.moveaxis(np.stack(rows), (0, 1), (-2, -1)) + np.eye(3))


@pytest.mark.parametrize("seed", range(8))
def test_warp_never_folds_and_stays_within_its_amplitude(seed: int) -> None:
    warp_mm = random_warp((34, 40, 32), rng=np.random.default_rng(seed), spacing_mm=6.0)
    length_mm = np.sqrt((warp_mm**2).sum(axis=0))
    assert jacobian_determinant(warp_mm, 6.0).min() > 0.1
    assert 1.5 < length_mm.max() < 8.0


@needs_template
def test_the_warp_a_brain_gets_never_folds() -> None:
    template = load_template()
    index = np.indices(template.t1_XYZ.shape, dtype=np.float32)
    for seed in range(3):
        moved = simulation._warped(index, template, np.random.default_rng(seed)) - index
        assert jacobian_determinant(moved, 1.0).min() > 0.0


@needs_template
def test_template_is_scaled_to_white_matter_and_read_only() -> None:
    template = load_template()
    white = template.white_XYZ > 0.95
    assert template.t1_XYZ[white].mean() == pytest.approx(1.0, abs=0.1)
    assert np.linalg.det(template.affine[:3, :3]) == pytest.approx(8.0)
    with pytest.raises(ValueError, match="read-only"):
        template.t1_XYZ[0, 0, 0] = 1.0


@needs_template
def test_brain_is_reproducible_and_seeds_differ() -> None:
    first, second, other = brain(3), brain(3), brain(4)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


@needs_template
@pytest.mark.parametrize("seed", range(4))
def test_brain_lies_whole_within_its_field_of_view(seed: int) -> None:
    voxels, affine = brain(seed)
    head = voxels > 0
    assert voxels.dtype == np.float32
    assert np.isfinite(voxels).all()
    assert voxels.min() == 0
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), COARSE_MM)
    assert 0.2 < head.mean() < 0.6
    assert 1.1e6 < head.sum() * 64.0 < 2.6e6  # mm³; the template's mask has 1.9e6
    faces = [head[0], head[-1], head[:, 0], head[:, -1], head[..., -1]]
    assert not any(face.any() for face in faces)


@needs_template
def test_intensity_scales_span_orders_of_magnitude() -> None:
    maxima = np.array([brain(seed, (8.0, 8.0, 8.0))[0].max() for seed in range(12)])
    assert maxima.max() / maxima.min() > 50


@needs_template
def test_tissues_keep_their_order() -> None:
    """White matter is brighter than grey, grey than the rest, as in any T1-weighted scan."""
    template = load_template()
    for seed in range(4):
        recoloured = simulation._recoloured(
            template.t1_XYZ, template.grey_XYZ, template.white_XYZ, np.random.default_rng(seed)
        )
        other = (template.head_XYZ > 0.99) & (template.grey_XYZ + template.white_XYZ < 0.1)
        grey, white = template.grey_XYZ > 0.9, template.white_XYZ > 0.9
        assert recoloured[other].mean() < recoloured[grey].mean() < recoloured[white].mean()


@needs_template
def test_cohort_differs_in_spacing_orientation_and_data_type(tmp_path: Path) -> None:
    paths = simulate_cohort(tmp_path, n=12, seed=5, spacings_mm=((6.0, 6.0, 6.0), (5.0, 5.0, 7.0)))
    images = [nib.load(path) for path in paths]
    assert [path.name for path in paths][::11] == ["healthy_000.nii.gz", "healthy_011.nii.gz"]
    assert {str(image.get_data_dtype()) for image in images} == {"float32", "int16", "uint8"}
    assert len({nib.aff2axcodes(image.affine) for image in images}) >= 8
    assert len({tuple(sorted(map(float, image.header.get_zooms()))) for image in images}) == 2
    oblique = [bool(nib.affines.obliquity(image.affine).max() > 0.05) for image in images]
    assert any(oblique)
    assert not all(oblique)


@needs_template
def test_cohort_reads_back_as_the_brain_that_was_simulated(tmp_path: Path) -> None:
    paths = simulate_cohort(tmp_path, n=3, seed=2, spacings_mm=(COARSE_MM,))
    for k, path in enumerate(paths):
        rng = np.random.default_rng([2, k])
        voxels, _ = simulate_brain(load_template(), rng=rng, spacing_mm=COARSE_MM)
        volume = read_volume(path)
        assert volume.shape == voxels.shape
        step = voxels.max() / 255  # the coarsest a file can be
        np.testing.assert_allclose(volume.voxels_XYZ, voxels, atol=0.51 * step)
        np.testing.assert_array_equal(volume.voxels_XYZ[voxels == 0], 0)


@needs_template
def test_a_larger_cohort_begins_with_the_smaller_byte_for_byte(tmp_path: Path) -> None:
    small = simulate_cohort(tmp_path / "small", n=2, seed=9, spacings_mm=(COARSE_MM,), prefix="a")
    large = simulate_cohort(tmp_path / "large", n=3, seed=9, spacings_mm=(COARSE_MM,), prefix="b")
    assert [path.read_bytes() for path in small] == [path.read_bytes() for path in large[:2]]
    other = simulate_cohort(tmp_path / "other", n=1, seed=10, spacings_mm=(COARSE_MM,))
    assert other[0].read_bytes() != small[0].read_bytes()


@needs_template
def test_a_scan_takes_about_a_second_at_most() -> None:
    load_template()
    start = time.process_time()
    brain(0, (2.5, 2.5, 2.5))
    assert time.process_time() - start < 2.0  # 0.15 s on an idle core


@pytest.mark.parametrize("wrong", [{"n": 0, "seed": 0}, {"n": 1, "seed": -1}, {"n": 1, "seed": 0, "spacings_mm": ()}])
def test_impossible_cohorts_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(SettingsError, match="no cohort"):
        simulate_cohort(tmp_path, **wrong)


@needs_template
def test_impossible_voxel_sizes_are_refused() -> None:
    for size in (0.0, -1.0, float("nan")):
        with pytest.raises(SettingsError, match="spacing_mm"):
            brain(0, (2.0, size, 2.0))
    with pytest.raises(SettingsError, match="1 mm"):
        load_template(0.5)


def test_without_nilearn_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation.importlib.util, "find_spec", lambda name: None)
    load_template.cache_clear()
    try:
        with pytest.raises(SettingsError, match=r'pip install "mendscan\[demo\]"'):
            load_template()
    finally:
        load_template.cache_clear()
