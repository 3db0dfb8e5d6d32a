"""From scans to a plan: each rule, its limits, and a reason for everything."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.conftest import as_volume, structured_scan
from mendscan.cohort.decision import Decision
from mendscan.cohort.fingerprint import Fingerprint, ScanFacts, fingerprint, scan_facts
from mendscan.cohort.plan import Plan
from mendscan.cohort.planning import VOXEL_BUDGET, plan_auto, plan_preset
from mendscan.cohort.preparing import prepare
from mendscan.config import PRESETS, DetectionSettings, override, parse_settings
from mendscan.errors import CohortError
from mendscan.volumes import volume_from_array

HEAD = {"shape": (180, 220, 180), "spacing_mm": (1.0, 1.0, 1.0)}
CROP = {"shape": (35, 51, 36), "spacing_mm": (1.0, 1.0, 1.0)}
CT = {"shape": (512, 512, 60), "spacing_mm": (0.8, 0.8, 5.0), "percentiles": (-1010.0, 20.0, 900.0)}


def facts(**changes: Any) -> ScanFacts:
    """A scan in figures; its foreground fills the field of view unless said otherwise."""
    values = {"name": "case", "content_hash": "0", "orientation": "RAS", "percentiles": (0.0, 10.0, 100.0)}
    values |= {"background_fraction": 0.5, **HEAD, **changes}
    extent = tuple(n * mm for n, mm in zip(values["shape"], values["spacing_mm"], strict=True))
    return ScanFacts(**{"foreground_mm": extent, **values})


def cohort(count: int = 10, **changes: Any) -> Fingerprint:
    return fingerprint([facts(**changes)] * count)


def plan_of(found: Fingerprint | None = None, **changes: Any) -> Plan:
    return plan_auto(found or cohort(**changes), seed=0)


def decision(plan: Plan, setting: str) -> Decision:
    (found,) = [one for one in plan.decisions if one.setting == setting]
    return found


# One scan in figures


def test_scan_facts_are_those_of_the_scan() -> None:
    voxels = np.zeros((20, 30, 40), dtype=np.float32)
    voxels[5:15, 3:27, 8:38] = np.random.default_rng(0).uniform(50, 100, (10, 24, 30))
    volume = volume_from_array(voxels[::-1], np.diag([-2.0, 1.0, 3.0, 1.0]), name="case")
    found = scan_facts(volume)
    assert (found.name, found.content_hash, found.orientation) == ("case", volume.content_hash, "LAS")
    assert (found.shape, found.spacing_mm) == ((20, 30, 40), (2.0, 1.0, 3.0))
    assert found.foreground_mm == (20.0, 24.0, 90.0)
    assert found.background_fraction == pytest.approx(1 - 7200 / 24000)
    np.testing.assert_allclose(found.percentiles, np.percentile(voxels, (1, 50, 99)), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_background_does_not_depend_on_the_unit(scale: float) -> None:
    voxels = structured_scan()
    plain, scaled = scan_facts(as_volume(voxels)), scan_facts(as_volume(voxels * np.float32(scale)))
    assert plain.background_fraction == pytest.approx(scaled.background_fraction, abs=1e-3)
    assert plain.background_fraction == pytest.approx((voxels == 0).mean(), abs=1e-3)
    assert plain.foreground_mm == scaled.foreground_mm


# Many


def test_fingerprint_sums_up() -> None:
    found = fingerprint(
        [
            facts(shape=(100, 100, 50), orientation="RAS", percentiles=(0.0, 1.0, 10.0), background_fraction=0.2),
            facts(shape=(120, 90, 60), orientation="LPS", percentiles=(2.0, 5.0, 52.0), background_fraction=0.4),
            facts(shape=(140, 80, 70), orientation="RAS", percentiles=(4.0, 5.0, 1004.0), spacing_mm=(1.0, 1.0, 2.0)),
        ]
    )
    assert (found.scans, found.shape_min, found.shape_max) == (3, (100, 80, 50), (140, 100, 70))
    assert found.shape_median == (120.0, 90.0, 60.0)
    assert (found.spacing_median_mm, found.spacing_max_mm) == ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0))
    assert found.extent_median_mm == (120.0, 90.0, 60.0)
    assert found.orientations == {"LPS": 1, "RAS": 2}
    assert found.intensity_scale_ratio == 100.0
    assert (found.intensity_low, found.intensity_high) == (2.0, 52.0)
    assert found.background_fraction == 0.4


def test_order_does_not_matter() -> None:
    several = [facts(shape=(100 + k, 100, 50), orientation="RAS" if k % 2 else "LPI") for k in range(7)]
    assert fingerprint(several) == fingerprint(several[::-1])


def test_no_scan_is_refused() -> None:
    with pytest.raises(CohortError, match="no usable scan"):
        fingerprint([])


# The grid


def test_crops_of_a_region_are_resized_to_the_median_shape() -> None:
    plan = plan_of(**CROP)
    preparation = plan.settings.preparation
    assert (preparation.fit, preparation.spacing_mm) == ("resize", None)
    assert preparation.shape_XYZ == (36, 52, 36)
    assert "crops of one region" in decision(plan, "preparation.fit").reason
    assert not plan.settings.augmentation.flip


@pytest.mark.parametrize(("longest", "fit"), [(99, "resize"), (100, "resample")])
def test_ten_centimetres_separate_crops_from_whole_scans(longest: int, fit: str) -> None:
    assert plan_of(shape=(50, longest, 50)).settings.preparation.fit == fit


def test_whole_scans_keep_millimetres_and_hold_the_foreground() -> None:
    plan = plan_of(foreground_mm=(140.0, 175.0, 150.0))
    preparation = plan.settings.preparation
    assert preparation.fit == "resample"
    assert preparation.spacing_mm is not None
    assert plan.settings.augmentation.flip
    sides = [n * mm for n, mm in zip(preparation.shape_XYZ, preparation.spacing_mm, strict=True)]
    for side, foreground, mm in zip(sides, (140.0, 175.0, 150.0), preparation.spacing_mm, strict=True):
        assert 1.04 * foreground <= side <= 1.04 * foreground + 4 * mm


def test_the_box_holds_the_foreground_of_most_scans_but_not_of_an_outlier() -> None:
    several = [facts(foreground_mm=(100.0 + k, 150.0, 150.0)) for k in range(39)]
    typical, odd = fingerprint(several), fingerprint([*several, facts(foreground_mm=(180.0, 150.0, 150.0))])
    assert 136 < typical.foreground_mm[0] < odd.foreground_mm[0] < 140


def test_without_background_the_field_of_view_is_held() -> None:
    preparation = plan_of(background_fraction=0.05, foreground_mm=(90.0, 90.0, 90.0)).settings.preparation
    assert preparation.spacing_mm is not None
    for n, mm, side in zip(preparation.shape_XYZ, preparation.spacing_mm, (180.0, 220.0, 180.0), strict=True):
        assert n * mm >= side


def test_fine_scans_are_coarsened_and_coarse_ones_are_not() -> None:
    assert min(plan_of(**HEAD).settings.preparation.spacing_mm or ()) > 2.0
    coarse = plan_of(shape=(40, 48, 40), spacing_mm=(4.0, 4.0, 4.5)).settings.preparation
    assert coarse.spacing_mm == (4.0, 4.0, 4.5)


def test_coarsening_spares_the_axis_that_is_coarse_already() -> None:
    preparation = plan_of(**{**CT, "shape": (400, 400, 24)}).settings.preparation
    x, y, z = preparation.spacing_mm or ()
    assert 0.8 < x == y < z == 5.0
    assert preparation.shape_XYZ[2] == 25  # with the margin of 4 %


@given(
    sides_mm=st.tuples(*[st.floats(5, 600)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.1, 9.0)] * 3),
    background=st.sampled_from([0.0, 0.3, 0.9]),
    filled=st.floats(0.05, 1.0),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_grid_fits_the_network_and_the_budget(
    sides_mm: tuple[float, float, float], spacing_mm: tuple[float, float, float], background: float, filled: float
) -> None:
    shape = tuple(max(4, round(side / mm)) for side, mm in zip(sides_mm, spacing_mm, strict=True))
    plan = plan_of(
        shape=shape,
        spacing_mm=spacing_mm,
        background_fraction=background,
        foreground_mm=tuple(filled * n * mm for n, mm in zip(shape, spacing_mm, strict=True)),
    )
    settings = plan.settings
    assert math.prod(settings.preparation.shape_XYZ) <= VOXEL_BUDGET
    assert all(n % 4 == 0 and n >= 8 for n in settings.slice_shape)
    assert all(n >= 2 for n in settings.latent_shape)
    assert settings.slices >= 1
    assert 8 <= settings.training.batch_slices <= 64
    assert override(settings, []) == settings  # consistent


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2000, 2000, 2000), "spacing_mm": (0.2, 0.2, 0.2)},
        {"shape": (900, 900, 900), "spacing_mm": (0.1, 0.1, 0.1)},
        {"shape": (2000, 2000, 8), "spacing_mm": (0.04, 0.04, 5.0)},
        {"shape": (4, 4, 4), "spacing_mm": (0.01, 0.01, 0.01)},
        {"shape": (4, 4, 4), "spacing_mm": (50.0, 50.0, 50.0)},
        {"foreground_mm": (0.0, 0.0, 0.0)},
    ],
)
def test_huge_tiny_and_odd_scans_get_a_grid(changes: dict[str, Any]) -> None:
    plan = plan_of(**changes)
    assert math.prod(plan.settings.preparation.shape_XYZ) <= VOXEL_BUDGET
    assert override(plan.settings, []) == plan.settings


def test_mixed_cohorts_follow_the_majority() -> None:
    heads, crops = [facts()] * 7, [facts(**CROP)] * 4
    mixed = fingerprint([*heads, *crops])
    assert plan_of(mixed).settings.preparation.fit == "resample"
    assert plan_of(fingerprint([*heads[:3], *crops])).settings.preparation.fit == "resize"
    assert mixed.shape_min == (35, 51, 36)


def test_small_and_large_batches() -> None:
    assert plan_of(**CROP).settings.training.batch_slices == 64
    assert plan_of(shape=(512, 512, 4), spacing_mm=(0.4, 0.4, 8.0)).settings.training.batch_slices == 8
    assert plan_of(**CROP).settings.discriminator.batch_scans == 4
    assert plan_of().settings.discriminator.batch_scans == 2, "whole heads on a grid of some 150 000 voxels"


# The slice axis


@pytest.mark.parametrize(
    ("axis", "spacing_mm"), [("X", (4.0, 1.0, 1.0)), ("Y", (1.0, 4.0, 1.0)), ("Z", (1.0, 1.0, 4.0))]
)
@pytest.mark.parametrize("side_mm", [64, 240])
def test_anisotropic_scans_are_cut_along_the_coarse_axis(
    axis: str, spacing_mm: tuple[float, float, float], side_mm: int
) -> None:
    plan = plan_of(shape=tuple(round(side_mm / mm) for mm in spacing_mm), spacing_mm=spacing_mm)
    assert plan.settings.slice_axis == axis
    assert "4 mm against 1 mm" in decision(plan, "preparation.slice_axis").reason
    assert plan.settings.augmentation.flip == (side_mm == 240 and axis != "X")


@pytest.mark.parametrize(("axis", "thick"), [("Z", 5.0), ("X", 4.0)])
@pytest.mark.parametrize("shape", [(40, 40, 40), (104, 104, 104)], ids=["region", "whole"])
def test_smoothing_is_as_wide_in_mm_along_thick_slices(axis: str, thick: float, shape: tuple[int, ...]) -> None:
    spacing_mm = tuple(thick if each == axis else 1.0 for each in "XYZ")
    plan = plan_of(shape=tuple(round(n / mm) for n, mm in zip(shape, spacing_mm, strict=True)), spacing_mm=spacing_mm)
    detection, grid = plan.settings.detection, plan.settings.preparation
    mm_XYZ = grid.spacing_mm or np.divide(plan.fingerprint.extent_median_mm, grid.shape_XYZ)
    sigma_mm = [s * mm_XYZ["XYZ".index(each)] for s, each in zip(nll_sigma(detection), grid.axes_SHW, strict=True)]
    np.testing.assert_allclose(sigma_mm, min(mm_XYZ) * detection.nll_sigma, rtol=0.02)
    assert nll_sigma(detection)[0] < 0.6 * detection.nll_sigma
    assert f"{sigma_mm[0]:.1f} mm" in decision(plan, "detection.nll_sigma").reason
    assert nll_sigma(plan_of(**CROP).settings.detection) == (2.0, 2.0, 2.0)


def nll_sigma(detection: DetectionSettings) -> tuple[float, float, float]:
    return detection.along_axes(detection.nll_sigma)


@pytest.mark.parametrize(("coarse", "axis"), [(1.49, "Z"), (1.5, "X")])
def test_nearly_isotropic_scans_are_cut_axially(coarse: float, axis: str) -> None:
    assert plan_of(spacing_mm=(coarse, 1.0, 1.0)).settings.slice_axis == axis


# Intensities


def test_ct_keeps_its_scale() -> None:
    plan = plan_of(**CT)
    preparation = plan.settings.preparation
    assert (preparation.intensity, preparation.intensity_range) == ("range", (-1010.0, 900.0))
    assert preparation.background_below == 0.05
    assert "CT" in decision(plan, "preparation.intensity").reason


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_negative_values_without_a_common_scale_are_no_ct(factor: float) -> None:
    other = facts(**{**CT, "percentiles": tuple(factor * p for p in CT["percentiles"])})
    plan = plan_of(fingerprint([facts(**CT)] * 9 + [other]))
    assert plan.settings.preparation.intensity == "robust"
    assert "10-fold" in decision(plan, "preparation.intensity").reason


def test_mr_is_standardised_scan_by_scan() -> None:
    assert plan_of().settings.preparation.intensity == "robust"
    assert plan_of(percentiles=(-50.0, 0.0, 100.0)).settings.preparation.intensity == "robust"


@pytest.mark.parametrize(
    ("fraction", "below", "words"),
    [(0.4, 0.05, "40 % of the voxels are background"), (0.1, 0.0, "too few to exclude"), (0.0, 0.0, "too few")],
)
def test_background_is_excluded_where_there_is_enough(fraction: float, below: float, words: str) -> None:
    plan = plan_of(background_fraction=fraction)
    assert plan.settings.preparation.background_below == below
    assert words in decision(plan, "preparation.background_below").reason


# All of it


@pytest.mark.parametrize("changes", [HEAD, CROP, CT, {"background_fraction": 0.0}, {"spacing_mm": (4.0, 1.0, 1.0)}])
def test_every_decision_has_a_reason_and_every_planned_value_a_decision(changes: dict[str, Any]) -> None:
    plan = plan_of(**changes)
    names = [one.setting for one in plan.decisions]
    assert len(set(names)) == len(names)
    assert all(one.value and len(one.reason) > 10 for one in plan.decisions)
    planned = {"preparation.fit", "preparation.shape_XYZ", "preparation.slice_axis", "preparation.intensity"}
    planned |= {"vqvae", "codebook", "prior", "training.batch_slices", "training.precision", "augmentation.flip"}
    if plan.settings.preparation.fit == "resample":
        planned.add("preparation.spacing_mm")
    assert planned <= set(names)


@pytest.mark.parametrize("changes", [HEAD, CROP, {"spacing_mm": (4.0, 1.0, 1.0)}])
def test_decisions_say_what_the_settings_are(changes: dict[str, Any]) -> None:
    plan = plan_of(**changes)
    preparation = plan.settings.preparation
    assert decision(plan, "preparation.fit").value == preparation.fit
    assert decision(plan, "preparation.slice_axis").value == preparation.slice_axis
    assert decision(plan, "preparation.shape_XYZ").value == "×".join(map(str, preparation.shape_XYZ))
    assert decision(plan, "preparation.intensity").value == preparation.intensity
    assert float(decision(plan, "preparation.background_below").value) == preparation.background_below
    assert decision(plan, "training.batch_slices").value == str(plan.settings.training.batch_slices)
    assert decision(plan, "training.precision").value == plan.settings.training.precision
    assert decision(plan, "augmentation.flip").value == str(plan.settings.augmentation.flip).lower()
    if preparation.spacing_mm is not None:
        said = decision(plan, "preparation.spacing_mm").value.split("×")
        assert tuple(map(float, said)) == preparation.spacing_mm


def test_the_processor_decides_the_precision() -> None:
    found = cohort()
    slow, fast = (plan_auto(found, seed=0, bfloat16_is_fast=native) for native in (False, True))
    assert (slow.settings.training.precision, fast.settings.training.precision) == ("float32", "bfloat16")
    assert decision(slow, "training.precision").reason != decision(fast, "training.precision").reason


def test_a_plan_is_a_function_of_cohort_and_seed() -> None:
    first, again, other = plan_auto(cohort(), seed=1), plan_auto(cohort(), seed=1), plan_auto(cohort(), seed=2)
    assert first == again
    assert first != other
    assert replace(other, settings=first.settings) == first


@pytest.mark.parametrize("changes", [HEAD, CROP, CT])
def test_a_plan_comes_back_from_its_json(changes: dict[str, Any]) -> None:
    plan = plan_of(**changes)
    saved = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert parse_settings(saved["settings"], where="plan.json") == plan.settings
    assert tuple(Decision(**one) for one in saved["decisions"]) == plan.decisions
    assert {name: _tuples(value) for name, value in saved["fingerprint"].items()} == asdict(plan.fingerprint)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_ignores_the_cohort(name: str) -> None:
    plan = plan_preset(name, cohort(**CROP), seed=5)
    assert plan.settings == PRESETS[name].model_copy(update={"seed": 5})
    assert plan.fingerprint == cohort(**CROP)
    (only,) = plan.decisions
    assert name in only.reason


def test_a_planned_grid_holds_the_head_it_was_planned_for() -> None:
    volume = as_volume(np.pad(structured_scan(), 12), spacing_mm=(4.0, 4.0, 5.0))
    plan = plan_of(fingerprint([scan_facts(volume)] * 8))
    prepared = prepare(volume, plan.settings.preparation)
    assert prepared.slices_SHW.shape == (plan.settings.slices, *plan.settings.slice_shape)
    held = prepared.to_scan(np.ones_like(prepared.slices_SHW)) > 0
    assert held[volume.voxels_XYZ > 0].all()
    assert held.mean() < 0.5


# --- what the user has set -------------------------------------------------------------------------------------------


def test_what_follows_from_the_grid_follows_from_the_users_grid() -> None:
    thick = cohort(shape=(180, 220, 22), spacing_mm=(1.0, 1.0, 8.0))
    assert plan_auto(thick, seed=0).settings.detection.voxel_aspect_SHW == (pytest.approx(3.0, abs=0.1), 1, 1)
    across = plan_auto(thick, seed=0, assignments=["preparation.slice_axis=Y"]).settings
    assert across.detection.voxel_aspect_SHW == (1, 1, pytest.approx(3.0, abs=0.1))
    assert all(side % 4 == 0 for side in across.slice_shape)
    fine = plan_auto(cohort(**CROP), seed=0, assignments=["preparation.shape_XYZ=144,192,144"]).settings
    usual = plan_of(**CROP).settings
    assert fine.training.batch_slices < usual.training.batch_slices
    assert fine.discriminator.batch_scans < usual.discriminator.batch_scans


def test_of_a_setting_given_twice_the_last_one_counts_and_is_said_once() -> None:
    plan = plan_auto(cohort(**CROP), seed=0, assignments=["vqvae.codes=64", "vqvae.codes=256"])
    assert plan.settings.vqvae.codes == 256
    assert [each.value for each in plan.decisions if each.setting == "vqvae.codes"] == ["256"]


def test_what_is_said_of_a_whole_network_goes_when_part_of_it_is_chosen() -> None:
    plan = plan_auto(cohort(**CROP), seed=0, assignments=["vqvae.codes = 256"])
    assert plan.settings.vqvae.codes == 256
    assert decision(plan, "vqvae.codes").value == "256"
    assert plan.set_by_user == {"vqvae.codes"}
    assert "vqvae" not in [each.setting for each in plan.decisions]
    assert "prior" in [each.setting for each in plan.decisions]
