"""One scan through the networks: no schedule, number of workers or grouping of slices shows in the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mendscan.cohort.preparing import prepare
from mendscan.detection import plane_networks
from mendscan.detection.batch import _share_cores
from mendscan.detection.code_shifts import SHIFTS, shifted
from mendscan.detection.detector import Detector
from mendscan.detection.devices import bfloat16_is_fast
from mendscan.detection.encoded_scan import EncodedScan
from mendscan.detection.networks import Networks, RestoredScan
from mendscan.errors import SettingsError
from mendscan.parallel import each_in_threads
from mendscan.volumes.reading import read_volume

RESTORATIONS = 5


@pytest.fixture(scope="module")
def scan(networks: Networks, tmp_path_factory: pytest.TempPathFactory, write_scan: Callable[..., Path]) -> EncodedScan:
    volume = read_volume(write_scan(tmp_path_factory.mktemp("scan"), "one", seed=77))
    return networks.encode(prepare(volume, networks.settings.preparation))


@pytest.fixture(scope="module")
def nats(detector: Detector) -> float:
    return detector.calibration.thresholds.restoration


def restored(networks: Networks, scan: EncodedScan, nats: float, **options: str) -> RestoredScan:
    return networks.restore(scan, restorations=RESTORATIONS, threshold_nats=nats, seed=1, **options)


def test_every_schedule_gives_the_same_map(networks: Networks, scan: EncodedScan, nats: float) -> None:
    results = {s: restored(networks, scan, nats, schedule=s) for s in ("incremental", "fixed-point", "sequential")}
    assert results["incremental"].residual_SHW.max() > 0.1
    for other in ("fixed-point", "sequential"):
        for found, expected in zip(results["incremental"], results[other], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_the_number_of_workers_changes_no_bit(
    networks: Networks, scan: EncodedScan, nats: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = plane_networks.Batching(slices=2, state_rows=10, group=2)
    monkeypatch.setattr(plane_networks, "FITS_A_CPU", small)
    alone, together = (restored(replace(networks, workers=count), scan, nats) for count in (1, workers))
    assert np.array_equal(alone.restored_SHW, together.restored_SHW)
    assert np.array_equal(alone.residual_SHW, together.residual_SHW)


@pytest.mark.parametrize(("slices", "restorations"), [(32, 15), (32, 1), (1, 15), (7, 500), (51, 15)])
def test_groups_take_every_slice_once(networks: Networks, slices: int, restorations: int) -> None:
    groups = networks._groups(slices, restorations)
    assert torch.cat(groups).sort().values.tolist() == list(range(slices))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == 1 or max(sizes) * restorations <= 120
    assert len(groups) > 1 or slices < 8


def test_fast_restores_in_bfloat16_and_leaves_the_score(detector: Detector, scan: EncodedScan, nats: float) -> None:
    exact, fast = (restored(detector.networks, scan, nats, precision=p) for p in ("exact", "fast"))
    same = np.array_equal(exact.residual_SHW, fast.residual_SHW)
    assert same != bfloat16_is_fast(detector.networks.device)
    assert exact.residual_SHW.shape == fast.residual_SHW.shape
    assert fast.residual_SHW.dtype == np.float32
    np.testing.assert_allclose(fast.residual_SHW.mean(), exact.residual_SHW.mean(), rtol=0.2)


@pytest.mark.parametrize("option", [{"schedule": "parallel"}, {"precision": "double"}])
def test_a_misspelt_option_is_refused(
    networks: Networks, scan: EncodedScan, nats: float, option: dict[str, str]
) -> None:
    # Where shapes and types are checked at run time, that check is the first to refuse.
    with pytest.raises((SettingsError, TypeError), match=next(iter(option.values()))):
        restored(networks, scan, nats, **option)


def test_fast_is_the_same_score(detector: Detector, tmp_path: Path, write_scan: Callable[..., Path]) -> None:
    path = write_scan(tmp_path, "two", seed=78)
    exact, fast = (detector.detect(path, precision=precision) for precision in ("exact", "fast"))
    assert exact.score == fast.score
    assert np.array_equal(exact.slice_scores, fast.slice_scores)


@pytest.mark.parametrize(
    ("scans", "workers", "expected"),
    [
        (1, None, (0, 4)),
        (2, None, (2, 2)),
        (9, None, (4, 1)),
        (9, 2, (2, 1)),
        (1, 3, (0, 3)),
        (9, 0, (0, 1)),
        (3, 1, (1, 1)),
    ],
)
def test_cores_are_shared_out(
    scans: int, workers: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mendscan.detection.batch.available_cores", lambda: 4)
    assert _share_cores(scans, workers, on_cpu=True) == expected


def test_an_accelerator_gets_one_process() -> None:
    assert _share_cores(9, None, on_cpu=False) == (0, 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_return_results_in_order_and_raise_the_first_error(workers: int) -> None:
    assert each_in_threads(pow, [(n, 2) for n in range(9)], workers=workers) == [n * n for n in range(9)]
    with pytest.raises(ZeroDivisionError):
        each_in_threads(divmod, [(1, 1), (1, 0), (2, 1)], workers=workers)


# --- the NLL, seen through shifted grids of codes --------------------------------------------------------------------


def test_a_shifted_slice_shows_what_was_beside_it_and_comes_back_but_for_its_border() -> None:
    slices = torch.rand(2, 5, 7)
    for rows, columns in SHIFTS:
        moved = shifted(slices, rows, columns)
        assert moved[0, 2, 3] == slices[0, 2 - rows, 3 - columns]
        torch.testing.assert_close(shifted(moved, -rows, -columns)[:, 1:-1, 1:-1], slices[:, 1:-1, 1:-1])


@pytest.mark.parametrize("shifts", [1, 5, 9])
def test_the_nll_as_evidence_is_the_mean_over_shifted_grids(networks: Networks, scan: EncodedScan, shifts: int) -> None:
    step = networks.settings.vqvae.downsampling
    expected = np.zeros(scan.slices_SHW.shape)
    for rows, columns in SHIFTS[:shifts]:
        _, nll = networks.codes_and_nll(shifted(scan.slices_SHW, rows, columns), scan.position_S)
        for (s, y, x), _ in np.ndenumerate(expected):
            # The pixel was moved by the shift; at the border it has left the slice, and the border stands for it.
            row, column = (
                int(np.clip(at + by, 0, n - 1))
                for at, by, n in zip((y, x), (rows, columns), expected.shape[1:], strict=True)
            )
            expected[s, y, x] += float(nll[s, row // step, column // step]) / shifts
    found = networks.evidence(scan, None, shifts=shifts).nll_SHW
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_only_a_map_that_counts_the_nll_is_worth_the_shifts(networks: Networks, scan: EncodedScan) -> None:
    def nll_under(**changed: object) -> np.ndarray:
        detection = networks.settings.detection.model_copy(update={"nll_shifts": 5, **changed})
        settings = networks.settings.model_copy(update={"detection": detection})
        return replace(networks, settings=settings).evidence(scan, np.zeros(scan.slices_SHW.shape, np.float32)).nll_SHW

    as_encoded = networks.evidence(scan, None, shifts=1).nll_SHW
    assert not np.array_equal(nll_under(voxel_map="standardised", evidence=("nll",)), as_encoded)
    assert np.array_equal(nll_under(voxel_map="standardised", evidence=("residual",)), as_encoded)
    assert np.array_equal(nll_under(voxel_map="residual"), as_encoded)


def test_places_that_are_asked_for_count_also_where_the_map_has_no_nll(networks: Networks, scan: EncodedScan) -> None:
    detection = networks.settings.detection.model_copy(update={"evidence": ("texture",), "nll_shifts": 5})
    without = replace(networks, settings=networks.settings.model_copy(update={"detection": detection}))
    as_encoded, averaged = (without.evidence(scan, None, shifts=shifts).nll_SHW for shifts in (None, 5))
    assert np.array_equal(as_encoded, networks.evidence(scan, None, as_encoded=True).nll_SHW)
    assert np.array_equal(averaged, networks.evidence(scan, None, shifts=5).nll_SHW)
    assert not np.array_equal(as_encoded, averaged)
