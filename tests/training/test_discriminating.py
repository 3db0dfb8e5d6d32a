"""What the discriminator is trained on."""

import numpy as np
import pytest
import torch

import mendscan.training.discriminating as discriminating
from baselines.conftest import SETTINGS
from mendscan.cohort.corruptions import Corrupted, corrupt
from mendscan.config import parse_settings
from mendscan.models.discriminator import Discriminator
from mendscan.training.discriminating import ScanData, discriminator_loss


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


@pytest.mark.parametrize("restyled", [0.0, 1.0])
def test_scans_are_restyled_with_their_faults_and_background_stays_zero(restyled, monkeypatch):
    settings = parse_settings(
        SETTINGS
        | {
            "augmentation": {"keep_zero": True, "flip": False},
            "discriminator": {"restyled": restyled, "deformed": 0.0},
        },
        where="test",
    )
    slices_NSHW = np.random.default_rng(0).random((2, 8, 16, 16)).astype(np.float16)
    slices_NSHW[:, :, :4] = 0
    seen, asked = [], []
    look = discriminating.restyled

    def watched(scan_SHW, *, generator):
        asked.append(scan_SHW)
        return look(scan_SHW, generator=generator)

    class Watching(Discriminator):
        def forward(self, scans_BSHW, *, member=None):
            seen.append(scans_BSHW)
            return super().forward(scans_BSHW, member=member)

    def without_faults(scan_SHW, **options) -> Corrupted:
        return Corrupted(scan_SHW, torch.zeros_like(scan_SHW, dtype=torch.bool), torch.ones_like(scan_SHW))

    monkeypatch.setattr(discriminating, "corrupt", without_faults)
    monkeypatch.setattr(discriminating, "restyled", watched)
    data = ScanData(slices_NSHW, (0, 1), settings, torch.device("cpu"))
    discriminator = Watching(settings.discriminator, (8, 16, 16))
    losses = discriminator_loss(discriminator, data)(0)
    assert torch.isfinite(losses["loss"])
    assert len(asked) == (settings.discriminator.batch_scans if restyled else 0)
    assert (seen[0][:, :, :4] == 0).all()
