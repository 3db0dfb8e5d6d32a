"""The stages that are shown are those of detection, and none is computed in another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mendscan.detection.detector import Detector
from mendscan.detection.explaining import Stages, explain
from mendscan.detection.scoring import restoration_weights
from mendscan.volumes.volume import Volume, volume_from_array
from tiny_model import OBLIQUE, head


@pytest.fixture(scope="module")
def scan() -> Volume:
    return volume_from_array(head(99), OBLIQUE, name="scan")


@pytest.fixture(scope="module")
def stages(detector: Detector, scan: Volume) -> Stages:
    return explain(detector, scan, seed=3)


def test_the_map_is_that_of_detection(detector: Detector, scan: Volume, stages: Stages) -> None:
    expected = np.clip(stages.prepared.to_scan(stages.map_SHW, at=stages.encoded.at), 0, 1)
    np.testing.assert_array_equal(detector.detect(scan, seed=3).map_XYZ, expected)


def test_the_papers_map_is_that_of_detection(detector: Detector, scan: Volume, stages: Stages) -> None:
    knowing = Detector(detector.networks, replace(detector.calibration, paper_map_threshold=0.5), model_hash="")
    expected = np.clip(stages.prepared.to_scan(stages.paper_map_SHW, at=stages.encoded.at), 0, 1)
    np.testing.assert_array_equal(knowing.detect(scan, seed=3, scores="paper").map_XYZ, expected)


def test_the_residual_is_of_the_restorations_shown(stages: Stages) -> None:
    np.testing.assert_allclose(stages.residual_HW, stages.evidence.residual_SHW[stages.row], atol=1e-4)
    assert stages.weight_R.sum() == pytest.approx(1.0)
    assert len(stages.weight_R) == stages.settings.detection.restorations


def test_the_first_code_that_is_replaced_is_unlikely_and_the_restorations_are_those_codes(
    detector: Detector, stages: Stages
) -> None:
    """The codes before it are as they were, so its NLL is that of the scan's codes."""
    count = len(stages.restored_codes_Rhw)
    assert count == stages.settings.detection.restorations
    changed_Rn = (stages.restored_codes_Rhw != stages.codes_hw).reshape(count, -1)
    assert changed_Rn.any()
    for changed_n in changed_Rn[changed_Rn.any(axis=1)]:
        assert stages.nll_hw.flat[changed_n.argmax()] > stages.thresholds.restoration - 1e-4
    position_R = torch.tensor([stages.position], dtype=torch.float32).expand(count)
    with torch.no_grad():
        decoded_RHW = detector.networks.vqvae.decode_codes(torch.tensor(stages.restored_codes_Rhw), position_R)
    np.testing.assert_allclose(stages.restorations_RHW, decoded_RHW.numpy(), atol=1e-5)


def test_the_reconstruction_is_of_the_codes(detector: Detector, stages: Stages) -> None:
    with torch.no_grad():
        position = torch.tensor([stages.position])
        expected = detector.networks.vqvae.decode_codes(torch.from_numpy(stages.codes_hw)[None], position)[0]
    np.testing.assert_allclose(stages.reconstruction_HW, expected.numpy(), atol=1e-5)


def test_the_slice_is_the_worst_or_the_one_wanted(detector: Detector, scan: Volume, stages: Stages) -> None:
    scores = stages.encoded.slice_scores(stages.thresholds.score)
    assert scores[stages.row] == scores.max()
    centres = stages.encoded.at * stages.prepared.grid.scale[2] + stages.prepared.grid.offset[2]
    for row in (0, 4, 7):
        point = scan.affine @ [3.0, 2.0, centres[row], 1.0]
        assert explain(detector, scan, through_mm=tuple(point[:3]), restorations=1).row == row


def test_what_the_map_combines_is_kept(stages: Stages) -> None:
    assert list(stages.excess) == ["residual", "nll"]
    assert {values.shape for values in stages.excess.values()} == {stages.map_SHW.shape}


def test_restorations_that_drifted_away_count_less() -> None:
    y = torch.zeros(2, 3)
    weights = restoration_weights(y, torch.stack([y + 0.5, y + 1.0, y + 0.5]), temperature=3.0)
    expected = np.exp([6.0, 3.0, 6.0]) / np.exp([6.0, 3.0, 6.0]).sum()
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-5)
    assert restoration_weights(y, torch.stack([y + 9, y + 1]), temperature=0.0).tolist() == [0.5, 0.5]
