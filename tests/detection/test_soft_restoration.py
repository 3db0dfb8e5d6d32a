"""Soft restoration: code by code as it is defined, and shown where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mendscan.cohort.preparing import prepare
from mendscan.detection import plane_networks
from mendscan.detection.detector import Detector
from mendscan.detection.encoded_scan import EncodedScan
from mendscan.detection.networks import Networks
from mendscan.detection.run_facts import Options, facts_of_run
from mendscan.detection.soft_restoration import restore_softly
from mendscan.progress import Silent
from mendscan.volumes.reading import read_volume


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, write_scan: Callable[..., Path]) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan"), "one", seed=77)


@pytest.fixture(scope="module")
def scan(networks: Networks, path: Path) -> EncodedScan:
    return networks.encode(prepare(read_volume(path), networks.settings.preparation))


def soft(detector: Detector, **changes: object) -> Detector:
    """The same detector, with soft restoration, and without the residual among its evidence."""
    settings = detector.settings
    detection = settings.detection.model_copy(update={"restored_scan": "soft", **changes})
    networks = replace(detector.networks, settings=settings.model_copy(update={"detection": detection}))
    voxels = detector.calibration.voxels
    kinds = {name: kind for name, kind in voxels.kinds.items() if name != "residual"}
    calibration = replace(detector.calibration, voxels=replace(voxels, kinds=kinds), paper_map_threshold=0.5)
    return Detector(networks, calibration, model_hash=detector.model_hash)


def test_each_unlikely_code_becomes_the_mean_of_all_code_vectors(networks: Networks, scan: EncodedScan) -> None:
    threshold = float(scan.nll_Shw.quantile(0.8))
    vectors = networks.vqvae.quantizer.vectors_KE.detach().numpy()
    with torch.no_grad():
        probability = networks.prior(scan.codes_Shw, scan.position_S).double().softmax(1).numpy()
        embedded = networks.vqvae.quantizer.embed(scan.codes_Shw).clone()
        for s, row, column in zip(*np.nonzero(scan.nll_Shw.numpy() > threshold), strict=True):
            mean = sum(p * vector for p, vector in zip(probability[s, :, row, column], vectors, strict=True))
            embedded[s, :, row, column] = torch.from_numpy(mean)
        expected = networks.vqvae.decode(embedded, scan.position_S)
    found = restore_softly(networks.vqvae, networks.prior, scan.codes_Shw, scan.position_S, threshold_nats=threshold)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_likely_codes_are_decoded_as_they_are(networks: Networks, scan: EncodedScan) -> None:
    found = networks.restore_softly(scan, threshold_nats=float(scan.nll_Shw.max()) + 1)
    with torch.no_grad():
        expected = networks.vqvae.decode_codes(scan.codes_Shw, scan.position_S).numpy()
    assert found.residual_SHW is None
    np.testing.assert_allclose(found.restored_SHW, expected, rtol=1e-4, atol=1e-4)


def test_neither_workers_nor_groups_show(
    networks: Networks, scan: EncodedScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane_networks, "FITS_A_CPU", plane_networks.Batching(slices=2, state_rows=10, group=2))
    one, three = (
        replace(networks, workers=workers).restore_softly(scan, threshold_nats=1.0).restored_SHW for workers in (1, 3)
    )
    assert np.array_equal(one, three)


AS_USUAL = Options(None, 0, True, "incremental", "exact", 0.5, None, "auto", False)


@pytest.mark.parametrize(("changed", "said"), [({"precision": "fast"}, 1), ({"schedule": "sequential"}, 1), ({}, 0)])
def test_what_has_no_effect_is_said(detector: Detector, changed: dict[str, Any], said: int) -> None:
    told: list[str] = []

    class Told(Silent):
        def say(self, message: str) -> None:
            told.append(message)

    asked = replace(AS_USUAL, **changed)
    for options in (asked, replace(asked, restorations=3)):
        facts_of_run(soft(detector), options, Told())
    assert sum("have no effect" in line for line in told) == said


def test_a_soft_detector_draws_nothing(detector: Detector, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = detector.detect(path)
    assert soft(detector).restorations_drawn(None, "auto") == 0
    monkeypatch.setattr(Networks, "restore", lambda *_, **__: pytest.fail("restorations were drawn"))
    first, second = (soft(detector).detect(path, seed=seed) for seed in (0, 1))
    assert np.array_equal(first.restored_XYZ, second.restored_XYZ)
    assert first.restored_XYZ.shape == drawn.restored_XYZ.shape
    assert not np.array_equal(first.restored_XYZ, drawn.restored_XYZ)
    assert first.score == second.score


@pytest.mark.parametrize("wanted", [{"restorations": 2}, {"scores": "paper"}])
def test_samples_are_drawn_where_they_are_asked_for(detector: Detector, path: Path, wanted: dict[str, object]) -> None:
    found, expected = (
        each.detect(path, **wanted) for each in (soft(detector), soft(detector, restored_scan="sampled"))
    )
    assert np.array_equal(found.restored_XYZ, expected.restored_XYZ)
    assert np.array_equal(found.map_XYZ, expected.map_XYZ)


def test_samples_are_drawn_where_the_map_needs_them(detector: Detector, path: Path) -> None:
    settings = detector.settings
    detection = settings.detection.model_copy(update={"restored_scan": "soft"})
    networks = replace(detector.networks, settings=settings.model_copy(update={"detection": detection}))
    found = Detector(networks, detector.calibration, model_hash="").detect(path)
    assert "residual" in detector.calibration.voxels.kinds
    assert np.array_equal(found.restored_XYZ, detector.detect(path).restored_XYZ)
