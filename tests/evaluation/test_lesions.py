import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from mendscan.evaluation.candidates import Candidates
from mendscan.evaluation.lesions import (
    FALSE_POSITIVES_PER_SCAN,
    froc,
    match_lesions,
    number_lesions,
    sensitivity_at,
)

SHAPE = (14, 11, 9)


def random_case(seed, shape=SHAPE, threshold=0.62):
    """A smooth map in coarse steps, so that peaks tie, and lesions that touch one another."""
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.random(shape), 0.8)
    map_XYZ = np.round((smooth - smooth.min()) / np.ptp(smooth), 1 + seed % 2).astype(np.float32)
    blobs = ndimage.gaussian_filter(generator.random(shape), 1.0)
    mask_XYZ = blobs > np.quantile(blobs, 0.9)
    lesions_XYZ = np.where(mask_XYZ, 1 + np.arange(shape[0])[:, None, None] // 4, 0)  # cut apart, but still touching
    return map_XYZ, lesions_XYZ.astype(np.int16), threshold


def components_by_first_voxel(mask_XYZ):
    """Flood each component from its first voxel, one voxel after another."""
    numbers_XYZ, open_voxels = np.zeros(mask_XYZ.shape, int), set(map(tuple, np.argwhere(mask_XYZ).tolist()))
    for first in map(tuple, np.argwhere(mask_XYZ).tolist()):
        number, front = numbers_XYZ.max() + 1, [first] if first in open_voxels else []
        open_voxels -= set(front)
        while front:
            voxel = front.pop()
            numbers_XYZ[voxel] = number
            reached = {n for n in open_voxels if max(abs(a - b) for a, b in zip(n, voxel, strict=True)) == 1}
            open_voxels -= reached
            front += reached
    return numbers_XYZ


def brute_force(map_XYZ, lesions_XYZ, threshold, smallest_voxels, iou):
    """Candidate by candidate and lesion by lesion, with sets of voxels."""
    components = measure.label(map_XYZ > threshold, connectivity=3)
    voxels_of = {n: set(map(tuple, np.argwhere(components == n))) for n in range(1, components.max() + 1)}
    voxels_of = {n: voxels for n, voxels in voxels_of.items() if len(voxels) >= smallest_voxels}
    lesion_of = {n: set(map(tuple, np.argwhere(lesions_XYZ == n))) for n in np.unique(lesions_XYZ[lesions_XYZ > 0])}
    peaks = {n: max(float(map_XYZ[voxel]) for voxel in voxels) for n, voxels in voxels_of.items()}
    found = dict.fromkeys(lesion_of, -np.inf)
    hitting = set()
    for candidate, voxels in voxels_of.items():
        centre = tuple(int(np.floor(c + 0.5)) for c in np.mean(list(voxels), axis=0))
        for lesion, lesion_voxels in lesion_of.items():
            shared = len(voxels & lesion_voxels)
            if shared and (shared / len(voxels | lesion_voxels) >= iou or centre in lesion_voxels):
                found[lesion] = max(found[lesion], peaks[candidate])
                hitting.add(candidate)
    covered = [np.mean([map_XYZ[voxel] > threshold for voxel in voxels]) for voxels in lesion_of.values()]
    false = sorted((peak for n, peak in peaks.items() if n not in hitting), reverse=True)
    return list(lesion_of), list(found.values()), covered, false


def assert_equals_brute_force(match, map_XYZ, lesions_XYZ, threshold, smallest_voxels=1, iou=0.1):
    numbers, found, covered, false = brute_force(map_XYZ, lesions_XYZ, threshold, smallest_voxels, iou)
    assert match.numbers.tolist() == numbers
    assert match.lesion_voxels.tolist() == [int((lesions_XYZ == n).sum()) for n in numbers]
    assert match.found_peaks.tolist() == found
    assert match.found.tolist() == [np.isfinite(peak) for peak in found]
    np.testing.assert_allclose(match.covered_shares, covered)
    assert match.false_peaks.tolist() == false


# --- candidates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_candidates_are_the_components_above_the_threshold(seed, order):
    map_XYZ, _, threshold = random_case(seed)
    candidates = Candidates.of(np.asarray(map_XYZ, order=order), threshold=threshold)
    expected = components_by_first_voxel(map_XYZ > threshold)
    n = expected.max()
    assert n > (seed != 3)  # in one case everything hangs together
    np.testing.assert_array_equal(candidates.numbers_XYZ, expected)
    numbers = range(1, n + 1)
    assert candidates.peaks.tolist() == [map_XYZ[expected == number].max() for number in numbers]
    assert candidates.voxels.tolist() == [(expected == number).sum() for number in numbers]
    np.testing.assert_allclose(candidates.centres, ndimage.center_of_mass(expected > 0, expected, numbers))


def test_small_candidates_are_left_out_and_the_others_renumbered():
    map_XYZ, _, threshold = random_case(0)
    everyone = Candidates.of(map_XYZ, threshold=threshold)
    larger = Candidates.of(map_XYZ, threshold=threshold, smallest_voxels=4)
    kept = everyone.voxels >= 4
    assert 0 < kept.sum() < kept.size
    assert larger.peaks.tolist() == everyone.peaks[kept].tolist()
    assert larger.voxels.tolist() == everyone.voxels[kept].tolist()
    np.testing.assert_array_equal(larger.centres, everyone.centres[kept])
    for new, old in enumerate(np.flatnonzero(kept) + 1, start=1):
        np.testing.assert_array_equal(larger.numbers_XYZ == new, everyone.numbers_XYZ == old)
    assert larger.numbers_XYZ.max() == kept.sum()


def test_the_threshold_itself_is_not_above():
    map_XYZ = np.full((2, 2, 2), 0.5)
    assert Candidates.of(map_XYZ, threshold=0.5).peaks.size == 0
    assert Candidates.of(map_XYZ, threshold=np.nextafter(0.5, 0)).peaks.tolist() == [0.5]


@pytest.mark.parametrize("seed", range(3))
def test_lesions_are_numbered_by_26_neighbours(seed):
    label_XYZ = (np.random.default_rng(seed).random(SHAPE) > 0.93).astype(np.uint8)
    numbers_XYZ = number_lesions(label_XYZ)
    np.testing.assert_array_equal(numbers_XYZ, components_by_first_voxel(label_XYZ > 0))
    np.testing.assert_array_equal(number_lesions(np.asfortranarray(label_XYZ)), numbers_XYZ)
    assert numbers_XYZ.max() < measure.label(label_XYZ, connectivity=1).max()  # corners and edges did join


# --- matching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("smallest_voxels", [1, 3])
@pytest.mark.parametrize("iou", [0.0, 0.1, 0.4, 1.0])
def test_matching_equals_brute_force(seed, smallest_voxels, iou):
    map_XYZ, lesions_XYZ, threshold = random_case(seed)
    match = match_lesions(map_XYZ, lesions_XYZ, threshold=threshold, smallest_voxels=smallest_voxels, iou=iou)
    assert_equals_brute_force(match, map_XYZ, lesions_XYZ, threshold, smallest_voxels, iou)


def test_random_cases_try_every_branch():
    matches = [match_lesions(*random_case(seed)[:2], threshold=0.62) for seed in range(12)]
    assert any(match.found.any() for match in matches)
    assert any((~match.found).any() for match in matches)
    assert any(match.false_peaks.size for match in matches)
    by_overlap_alone = [match_lesions(*random_case(seed)[:2], threshold=0.62, iou=1.0) for seed in range(12)]
    assert any(match.found.any() for match in by_overlap_alone)  # by their centres
    assert any((a.found & ~b.found).any() for a, b in zip(matches, by_overlap_alone, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_memory_order_and_label_type_do_not_matter(seed):
    map_XYZ, lesions_XYZ, threshold = random_case(seed)
    plain = match_lesions(map_XYZ, lesions_XYZ, threshold=threshold)
    fortran = match_lesions(np.asfortranarray(map_XYZ), lesions_XYZ.astype(np.uint8), threshold=threshold)
    strided = match_lesions(
        np.repeat(map_XYZ, 2, axis=1)[:, ::2], np.asfortranarray(lesions_XYZ, np.int64), threshold=threshold
    )
    for other in (fortran, strided):
        assert other.numbers.tolist() == plain.numbers.tolist()
        assert other.found_peaks.tolist() == plain.found_peaks.tolist()
        assert other.covered_shares.tolist() == plain.covered_shares.tolist()
        assert other.false_peaks.tolist() == plain.false_peaks.tolist()


def box(*corners, value=1, shape=(12, 12, 12), dtype=np.int32):
    array = np.zeros(shape, dtype)
    array[tuple(slice(start, stop) for start, stop in corners)] = value
    return array


def test_iou_decides_at_equality():
    lesions_XYZ = box((0, 1), (0, 1), (0, 10))
    map_XYZ = box((0, 1), (0, 1), (9, 11), value=0.9, dtype=np.float64)  # shares 1 of 11; centre outside
    assert match_lesions(map_XYZ, lesions_XYZ, threshold=0.5, iou=1 / 11).found.tolist() == [True]
    missed = match_lesions(map_XYZ, lesions_XYZ, threshold=0.5, iou=1 / 11 + 1e-9)
    assert missed.found_peaks.tolist() == [-np.inf]
    assert missed.false_peaks.tolist() == [0.9]
    assert missed.covered_shares.tolist() == [0.1]


def test_a_centre_hit_finds_a_lesion_far_smaller_than_the_candidate():
    lesions_XYZ = box((5, 6), (5, 6), (5, 6))
    map_XYZ = box((1, 10), (1, 10), (1, 10), value=0.7, dtype=np.float64)
    assert match_lesions(map_XYZ, lesions_XYZ, threshold=0.5).found_peaks.tolist() == [0.7]
    beside = match_lesions(map_XYZ, np.roll(lesions_XYZ, 1, axis=2), threshold=0.5)
    assert beside.found.tolist() == [False]
    assert beside.false_peaks.tolist() == [0.7]


def test_a_ring_does_not_find_what_lies_in_its_middle():
    lesions_XYZ = box((5, 6), (5, 6), (5, 6))
    ring = box((0, 11), (0, 11), (0, 11), value=0.7, dtype=np.float64)
    ring[2:9, 2:9, 2:9] = 0
    match = match_lesions(ring, lesions_XYZ, threshold=0.5)
    assert match.found.tolist() == [False]
    assert match.false_peaks.tolist() == [0.7]


def test_one_candidate_may_find_several_lesions_and_several_one():
    lesions_XYZ = box((0, 2), (0, 4), (0, 4)) + box((2, 4), (0, 4), (0, 4), value=2)  # they touch
    map_XYZ = box((0, 4), (0, 4), (0, 4), value=0.8, dtype=np.float64)
    both = match_lesions(map_XYZ, lesions_XYZ, threshold=0.5)
    assert both.found_peaks.tolist() == [0.8, 0.8]
    assert both.false_peaks.size == 0
    lesion_XYZ = box((0, 1), (0, 1), (0, 9))
    map_XYZ = box((0, 1), (0, 1), (0, 2), value=0.6, dtype=np.float64)
    map_XYZ += box((0, 1), (0, 1), (5, 8), value=0.9, dtype=np.float64)
    once = match_lesions(map_XYZ, lesion_XYZ, threshold=0.5)
    assert once.found_peaks.tolist() == [0.9]
    assert once.false_peaks.size == 0
    assert once.covered_shares.tolist() == [5 / 9]


def test_without_lesions_every_candidate_is_false():
    map_XYZ, lesions_XYZ, threshold = random_case(0)
    match = match_lesions(map_XYZ, np.zeros_like(lesions_XYZ), threshold=threshold)
    assert match.numbers.size == match.found_peaks.size == match.covered_shares.size == 0
    expected = Candidates.of(map_XYZ, threshold=threshold).peaks
    assert match.false_peaks.tolist() == sorted(expected.tolist(), reverse=True)


def test_without_candidates_no_lesion_is_found():
    map_XYZ, lesions_XYZ, _ = random_case(0)
    match = match_lesions(map_XYZ, lesions_XYZ, threshold=2.0)
    assert not match.found.any()
    assert match.covered_shares.tolist() == [0] * match.numbers.size
    assert match.false_peaks.size == 0


@pytest.mark.parametrize("threshold", [-1.0, 0.62])
def test_a_lesion_that_covers_everything(threshold):
    map_XYZ = random_case(0)[0]
    match = match_lesions(map_XYZ, np.ones(SHAPE, np.uint8), threshold=threshold, iou=0.0)
    assert match.found_peaks.tolist() == [map_XYZ.max()]
    assert match.false_peaks.size == 0
    assert match.covered_shares == pytest.approx([np.mean(map_XYZ > threshold)])


def test_numbers_need_not_be_without_gaps():
    map_XYZ, lesions_XYZ, threshold = random_case(3)
    gaps_XYZ = lesions_XYZ * 3
    match = match_lesions(map_XYZ, gaps_XYZ, threshold=threshold)
    assert_equals_brute_force(match, map_XYZ, gaps_XYZ, threshold)


def test_unusable_arrays_are_refused():
    map_XYZ, lesions_XYZ, threshold = random_case(0)
    refused = (ValueError, TypeError)  # TypeError where shapes are checked at run time
    for bad_map, bad_lesions in [
        (map_XYZ[None], lesions_XYZ[None]),
        (map_XYZ[0], lesions_XYZ[0]),
        (map_XYZ, lesions_XYZ[1:]),
    ]:
        with pytest.raises(refused):
            match_lesions(bad_map, bad_lesions, threshold=threshold)
    with pytest.raises(refused):
        number_lesions(lesions_XYZ[None])
    with pytest.raises(refused):
        Candidates.of(map_XYZ[None], threshold=threshold)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_maps_that_are_not_finite_are_refused(value):
    map_XYZ, lesions_XYZ, threshold = random_case(0)
    map_XYZ[3, 3, 3] = value
    with pytest.raises(ValueError, match="finite"):
        match_lesions(map_XYZ, lesions_XYZ, threshold=threshold)


def test_bad_options_and_numbers_are_refused():
    map_XYZ, lesions_XYZ, threshold = random_case(0)
    with pytest.raises(ValueError, match="NaN"):
        match_lesions(map_XYZ, lesions_XYZ, threshold=float("nan"))
    with pytest.raises(ValueError, match=r"iou=1\.5"):
        match_lesions(map_XYZ, lesions_XYZ, threshold=threshold, iou=1.5)
    for wrong in (-1, lesions_XYZ.size + 1):
        bad_XYZ = lesions_XYZ.astype(np.int64)
        bad_XYZ[0, 0, 0] = wrong
        with pytest.raises(ValueError, match=str(wrong)):
            match_lesions(map_XYZ, bad_XYZ, threshold=threshold)


# --- free response ---------------------------------------------------------------------------------------------------


def random_peaks(seed, n_cases=6, decimals=1):
    """Cases without lesions, without false peaks and without either are among them; peaks tie."""
    generator = np.random.default_rng(seed)
    found, false = [], []
    for case in range(n_cases):
        peaks = np.round(generator.random(generator.integers(1, 5)) * (case != 0), decimals)
        found.append(np.where(generator.random(peaks.size) < 0.3, -np.inf, peaks)[: 0 if case == 1 else None])
        false.append(np.round(generator.random(generator.integers(1, 9)) * 0.9, decimals)[: 0 if case == 2 else None])
    return found, false


def naive_sensitivity(found, false, weights, rate):
    """The best sensitivity of any threshold, from none to all, with no more false positives than wanted."""
    peaks = {np.inf} | {p for peaks in (*found, *false) for p in peaks.tolist() if np.isfinite(p)}
    n_lesions = sum(w * len(peaks) for w, peaks in zip(weights, found, strict=True))
    if not n_lesions:
        return np.nan
    best = 0.0
    for threshold in peaks:
        hits = sum(w * (peaks >= threshold).sum() for w, peaks in zip(weights, found, strict=True))
        falses = sum(w * (peaks >= threshold).sum() for w, peaks in zip(weights, false, strict=True))
        if falses / sum(weights) <= rate:
            best = max(best, hits / n_lesions)
    return best


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("decimals", [1, 4])
def test_sensitivity_equals_a_loop_over_thresholds(seed, decimals):
    found, false = random_peaks(seed, decimals=decimals)
    rates = (0.0, 1 / 6, 0.5, *FALSE_POSITIVES_PER_SCAN, 100.0)
    weights_BN = np.random.default_rng(seed).integers(0, 3, (5, 6)).astype(float)
    weights_BN[0] = 1
    weights_BN[1] = [0, 1, 0, 0, 0, 0]  # no lesion
    values = sensitivity_at(found, false, weights_BN, false_positives_per_scan=rates)
    expected = [[naive_sensitivity(found, false, weights, rate) for rate in rates] for weights in weights_BN]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert np.isnan(values[1]).all()


@pytest.mark.parametrize("seed", range(5))
def test_weights_repeat_cases(seed):
    found, false = random_peaks(seed)
    times = [2, 0, 1, 3, 1, 2]
    weighted = sensitivity_at(found, false, np.array([times], float))
    repeated = [[one for one, n in zip(cases, times, strict=True) for _ in range(n)] for cases in (found, false)]
    np.testing.assert_allclose(weighted, sensitivity_at(*repeated, np.ones((1, sum(times)))))


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_step_that_the_sensitivities_are_read_from(seed):
    found, false = random_peaks(seed, decimals=3)
    weights = np.array([1.0, 2, 1, 1, 0, 1])
    curve = froc(found, false, weights)
    assert curve.thresholds[0] == np.inf
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.false_positives_per_scan) >= 0).all()
    assert (np.diff(curve.sensitivity) >= 0).all()
    assert (curve.false_positives_per_scan[0], curve.sensitivity[0]) == (0, 0)
    everything = sum(w * peaks.size for w, peaks in zip(weights, false, strict=True)) / weights.sum()
    assert curve.false_positives_per_scan[-1] == pytest.approx(everything)
    for rate in np.linspace(0, 8, 33):
        reached = curve.sensitivity[curve.false_positives_per_scan <= rate][-1]
        at_rate = sensitivity_at(found, false, weights[None], false_positives_per_scan=(float(rate),))
        assert reached == at_rate[0, 0] == pytest.approx(naive_sensitivity(found, false, weights, rate))


def test_a_tie_of_true_and_false_counts_both():
    tied = sensitivity_at([np.array([0.5])], [np.array([0.5])], np.ones((1, 1)), false_positives_per_scan=(0.9, 1.0))
    assert tied.tolist() == [[0, 1]]
    surer = sensitivity_at([np.array([0.51])], [np.array([0.5])], np.ones((1, 1)), false_positives_per_scan=(0.0, 1.0))
    assert surer.tolist() == [[1, 1]]


def test_without_candidates_or_lesions():
    nothing, missed = np.zeros(0), np.full(3, -np.inf)
    assert sensitivity_at([missed], [nothing], np.ones((1, 1))).tolist() == [[0] * 7]
    assert np.isnan(sensitivity_at([nothing], [np.array([0.4])], np.ones((1, 1)))).all()
    assert np.isnan(sensitivity_at([missed], [nothing], np.zeros((1, 1)))).all()
    curve = froc([missed], [nothing], np.ones(1))
    assert curve.sensitivity.tolist() == curve.false_positives_per_scan.tolist() == [0, 0]


def test_an_unlike_number_of_cases_and_bad_rates_are_refused():
    found, false = random_peaks(0)
    with pytest.raises(ValueError, match="as many"):
        sensitivity_at(found, false, np.ones((1, 5)))
    with pytest.raises(ValueError, match="as many"):
        froc(found, false[1:], np.ones(6))
    for rate in (-1.0, np.nan):
        with pytest.raises(ValueError, match="below 0"):
            sensitivity_at(found, false, np.ones((1, 6)), false_positives_per_scan=(float(rate),))
