"""What the discriminator is trained on."""

import numpy as np
import pytest
import torch

import mendscan.training.discriminating as discriminating
from baselines.conftest import SETTINGS
from mendscan.cohort.corruptions import Corrupted, corrupt
from mendscan.config import parse_settings
from mendscan.training.discriminating import ScanData


@pytest.mark.parametrize("aspect", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
def test_faults_are_as_long_in_mm_as_evidence_is_smoothed(aspect, monkeypatch):
    settings = parse_settings(SETTINGS, where="test")
    detection = settings.detection.model_copy(update={"voxel_aspect_SHW": aspect})
    settings = settings.model_copy(update={"detection": detection})
    slices_NSHW = np.random.default_rng(0).random((3, 8, 16, 16)).astype(np.float16)
    asked = []

    def watched(*scan, **options) -> Corrupted:
        asked.append(options["aspect"])
        return corrupt(*scan, **options)

    monkeypatch.setattr(discriminating, "corrupt", watched)
    data = ScanData(slices_NSHW, (0, 2), settings, torch.device("cpu"))
    data.corrupted(1, torch.zeros(8, 16, 16), generator=torch.Generator().manual_seed(0))
    assert asked == [aspect]
