"""The acquisition gate: what is unusual is said in words, what is not is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cohort.anatomy import anatomy, scan
from mendscan.cohort.template import Template
from mendscan.detection.code_usage import CodeUsage
from mendscan.detection.gate import AcquisitionGate
from mendscan.detection.gate_facts import Range, cell_size_mm, gate_facts
from mendscan.volumes.volume import Volume, volume_from_array

SUBJECTS = 8
TWO_MM = np.diag([2.0, 2.0, 2.0, 1.0])
THICK = np.diag([2.0, 2.0, 6.0, 1.0])
Change = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def gate() -> AcquisitionGate:
    scans = [scan(seed) for seed in range(SUBJECTS)]
    cell_mm = cell_size_mm([each.extent_mm for each in scans])
    return AcquisitionGate.learn([gate_facts(each, cell_mm=cell_mm) for each in scans], cell_mm=cell_mm)


def said(gate: AcquisitionGate, voxels: np.ndarray, affine: np.ndarray = TWO_MM) -> dict[str, str]:
    volume = volume_from_array(voxels, affine, name="new")
    return {warning.code: warning.message for warning in gate.warnings(volume)}


def like_ct(voxels: np.ndarray) -> np.ndarray:
    rank = voxels.ravel().argsort().argsort().reshape(voxels.shape) / voxels.size
    return np.where(rank < 0.5, -1000.0 + 10 * rank, -60.0 + 200 * rank)


def noise(voxels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(200, 90, voxels.shape)


@pytest.mark.parametrize("seed", range(20, 26))
def test_nothing_is_said_of_another_healthy_scan(gate: AcquisitionGate, seed: int) -> None:
    assert said(gate, anatomy(seed)) == {}


def test_nothing_is_said_of_a_local_anomaly(gate: AcquisitionGate) -> None:
    voxels = anatomy(20)
    voxels[14:18, 18:22, 14:18] += 600
    assert said(gate, voxels) == {}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda v: (v[::-1], TWO_MM), "W_TURNED", "left and right exchanged?"),
        (lambda v: (v[:, ::-1], TWO_MM), "W_TURNED", "front and back exchanged?"),
        (lambda v: (v[:, :, ::-1], TWO_MM), "W_TURNED", "top and bottom exchanged?"),
        (lambda v: (v[::-1, ::-1], TWO_MM), "W_TURNED", "left and right, and front and back exchanged?"),
        (lambda v: (v.swapaxes(1, 2), TWO_MM), "W_TURNED", "training scans is right, top and front here"),
        (lambda v: (v[:, :, :-12], TWO_MM), "W_CROP", "of the anatomy at the top"),
        (lambda v: (v.max() - v, TWO_MM), "W_CONTRAST", "bright and dark exchanged"),
        (lambda v: (v / v.max(), TWO_MM), "W_SCALE", "intensities from"),
        (lambda v: (1000 * (v / v.max()) ** 4, TWO_MM), "W_HISTOGRAM", "intensities are spread unlike"),
        (lambda v: ((v > 200).astype(np.uint8), TWO_MM), "W_LABELS", "only 2 different values"),
        (lambda v: (like_ct(v), TWO_MM), "W_MODALITY", "looks like CT; the training scans do not"),
        (lambda v: (v[:, :, ::3], THICK), "W_SPACING", "6 mm from bottom to top; the training scans have 2"),
        (lambda v: (v[:16], TWO_MM), "W_FIELD_OF_VIEW", "32 mm from left to right; the training scans have 72"),
        (lambda v: (noise(v), TWO_MM), "W_OTHER", "does not look like the training scans"),
    ],
)  # fmt: skip
def test_what_is_unusual_is_said(gate: AcquisitionGate, change: Change, code: str, words: str) -> None:
    found = said(gate, *change(anatomy(20)))
    assert words in found.get(code, ""), found


def test_a_scan_stored_in_another_order_is_the_same_scan(gate: AcquisitionGate) -> None:
    """Flipped together with its affine, nothing is turned."""
    flipped = np.diag([-2.0, 2.0, 2.0, 1.0])
    flipped[0, 3] = 2.0 * (anatomy(20).shape[0] - 1)
    assert said(gate, anatomy(20)[::-1], flipped) == {}


def test_a_file_without_orientation_is_told_from_those_that_have_one(gate: AcquisitionGate) -> None:
    volume = scan(20)
    unknown = Volume(volume.voxels_XYZ, volume.affine, "x", replace(volume.native, sform_code=0, qform_code=0))
    assert [warning.code for warning in gate.warnings(unknown)] == ["W_ORIENTATION"]


def test_a_symmetric_anatomy_cannot_be_seen_to_be_mirrored() -> None:
    """Half of the subjects mirrored: whatever a mirrored scan gains, healthy scans gain, too."""
    scans = [scan(n, voxels_XYZ=anatomy(n)[:: -1 if n % 2 else 1]) for n in range(SUBJECTS)]
    cell_mm = cell_size_mm([each.extent_mm for each in scans])
    gate = AcquisitionGate.learn([gate_facts(each, cell_mm=cell_mm) for each in scans], cell_mm=cell_mm)
    assert "W_TURNED" not in said(gate, anatomy(20)) | said(gate, anatomy(20)[::-1])
    assert "front and back" in said(gate, anatomy(20)[:, ::-1])["W_TURNED"]


def test_a_cohort_of_ct_expects_ct() -> None:
    scans = [scan(n, voxels_XYZ=like_ct(anatomy(n))) for n in range(4)]
    gate = AcquisitionGate.learn([gate_facts(each, cell_mm=6.0) for each in scans], cell_mm=6.0)
    assert "W_MODALITY" not in said(gate, like_ct(anatomy(20)))
    assert "does not look like CT" in said(gate, anatomy(20))["W_MODALITY"]


def test_the_use_of_codes() -> None:
    generator = np.random.default_rng(0)
    healthy = [generator.integers(0, 8, size=(5, 6, 6)) for _ in range(6)]
    usage = CodeUsage.learn(healthy, codes=16)
    assert usage.divergence(healthy[0]) < 0.1
    assert usage.divergence(np.full((5, 6, 6), 12)) == pytest.approx(1.0)
    assert np.exp(usage.apart.high) < 0.1


def test_unusual_codes_are_said(gate: AcquisitionGate) -> None:
    generator = np.random.default_rng(0)
    healthy = [generator.integers(0, 8, size=(5, 6, 6)) for _ in range(6)]
    knowing = replace(gate, codes=CodeUsage.learn(healthy, codes=16))
    assert knowing.code_warnings(generator.integers(0, 8, size=(5, 6, 6))) == ()
    (warning,) = knowing.code_warnings(np.full((5, 6, 6), 12))
    assert warning.code == "W_CODES"
    assert "divergence 1 bits" in warning.message
    assert gate.code_warnings(np.full((5, 6, 6), 12)) == ()


def test_it_is_saved_and_loaded(gate: AcquisitionGate) -> None:

    usage = CodeUsage.learn([np.arange(8).reshape(2, 2, 2) % n for n in (2, 3, 4)], codes=4)
    whole = replace(gate, codes=usage)
    again = AcquisitionGate.from_json(json.loads(json.dumps(whole.to_json())), whole.arrays())
    for voxels in (anatomy(20), anatomy(20)[::-1], anatomy(20)[:, :, :-12], anatomy(20) / 900):
        assert said(again, voxels) == said(whole, voxels)
    assert again.code_warnings(np.zeros((2, 2, 2), int)) == whole.code_warnings(np.zeros((2, 2, 2), int))


def test_a_range_allows_half_of_itself_and_its_slack_at_least() -> None:
    wide, narrow = Range.of([1.0, 3.0], 0.25), Range.of([2.0, 2.0], 0.25)
    assert [wide.holds(value) for value in (-0.01, 0.0, 4.0, 4.01)] == [False, True, True, False]
    assert [narrow.holds(value) for value in (1.7, 1.75, 2.25, 2.3)] == [False, True, True, False]


def test_a_far_larger_scan_is_not_laid_on_the_picture(gate: AcquisitionGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole body given to a model of heads: 48 orientations of it would take minutes."""
    monkeypatch.setattr(Template, "fit", lambda *_: pytest.fail("it was laid on the picture"))
    voxels = np.random.default_rng(0).normal(200, 90, (40, 44, 40)).astype(np.float32)
    assert "W_FIELD_OF_VIEW" in said(gate, voxels, np.diag([2.0, 2.0, 16.0, 1.0]))
