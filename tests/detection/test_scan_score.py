"""One score per scan from parts: valid among healthy scans, high if any part is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mendscan.detection.scan_score import ScanCalibration, top_mean


def healthy(scans: int, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return {
        "local": rng.lognormal(1.0, 0.2, scans).tolist(),
        "acquisition": rng.lognormal(2.0, 0.1, scans).tolist(),
    }


def test_the_score_is_the_largest_part_and_grows_with_each() -> None:
    known = ScanCalibration.fit(healthy(19))
    usual = {"local": float(np.exp(1.0)), "acquisition": float(np.exp(2.0))}
    before = known.score(usual)
    assert before.score == max(before.parts.values())
    for name in usual:
        odd = known.score({**usual, name: 3 * usual[name]})
        assert odd.score == odd.parts[name] > 5 > before.score
        assert odd.p_value == odd.part_p_values[name] == 1 / 20
        other = next(each for each in usual if each != name)
        assert odd.parts[other] == before.parts[other]


def test_the_p_value_holds_for_healthy_scans() -> None:
    """Over many calibration sets a new healthy scan's p-value is at most α with probability at most α."""
    p_values = []
    for seed in range(600):
        every = healthy(20, seed)
        known = ScanCalibration.fit({name: values[:19] for name, values in every.items()})
        p_values.append(known.score({name: values[19] for name, values in every.items()}).p_value)
    for alpha in (0.05, 0.1, 0.2, 0.5):
        # Three standard errors of a share, and the approximation that 18 others stand for 19.
        assert np.mean(np.array(p_values) <= alpha + 1e-9) <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 600)


def test_calibration_scans_are_scored_against_the_others() -> None:
    values = healthy(7)
    known = ScanCalibration.fit(values)
    expected = []
    for left_out in range(7):
        others = ScanCalibration.fit({name: np.delete(part, left_out).tolist() for name, part in values.items()})
        expected.append(others.score({name: part[left_out] for name, part in values.items()}).score)
    assert known.healthy_scores == pytest.approx(sorted(expected))


@pytest.mark.parametrize("scans", [1, 2, 3])
def test_few_scans_give_finite_scores(scans: int) -> None:
    known = ScanCalibration.fit(healthy(scans))
    said = known.score({"local": 0.0, "acquisition": 1e9})
    assert np.isfinite([said.score, *said.parts.values(), *known.healthy_scores]).all()
    assert said.p_value == 1 / (scans + 1)


def test_it_comes_back_from_json() -> None:
    known = ScanCalibration.fit(healthy(5))
    assert ScanCalibration.from_json(json.loads(json.dumps(known.to_json()))) == known


def test_nothing_scored_is_as_healthy_as_can_be() -> None:
    assert top_mean(np.array([]), 0.01) == 0.0
    assert top_mean(np.arange(1000.0), 0.01) == pytest.approx(994.5)
    assert top_mean(np.array([1.0, 4.0]), 0.01) == 4.0
