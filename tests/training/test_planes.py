"""Networks of three planes: each learns slices along its own axis, and the NLL as evidence is the mean of all."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mendscan
from mendscan.cohort.preparing import prepare, slice_positions
from mendscan.config import override
from mendscan.detection.networks import Networks
from mendscan.detection.scoring import nll_map
from mendscan.errors import Interrupted, SettingsError
from mendscan.models.bundle import load_bundle
from mendscan.training.building import stage_steps
from mendscan.volumes.reading import read_volume
from training.conftest import SMALL
from training.test_trainer import StopAt

ONE_BY_ONE = ("detection.evidence=nll", "prior.context_slices=0")
PLANES = (*SMALL, "preparation.planes=3", "preparation.shape_XYZ=20,24,12", *ONE_BY_ONE)


def train(healthy: Path, folder: Path, **options: object) -> Path:
    mendscan.train(healthy, folder, **{"assignments": PLANES, "steps": 60, "device": "cpu"} | options)
    return folder


@pytest.fixture(scope="module")
def model(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(healthy, tmp_path_factory.mktemp("models") / "planes")


@pytest.fixture(scope="module")
def networks(model: Path) -> Networks:
    bundle = load_bundle(model)
    return Networks.of(bundle.networks, bundle.settings, device=torch.device("cpu"))


def test_two_planes_are_the_slice_axis_and_the_first_other(networks: Networks) -> None:
    two = override(networks.settings, ["preparation.planes=2"])
    assert list(two.further_planes) == ["X"]
    assert list(override(two, ["preparation.slice_axis=X"]).further_planes) == ["Y"]
    assert list(networks.settings.further_planes) == ["X", "Y"]


def test_each_plane_is_trained_for_as_long(model: Path, networks: Networks) -> None:
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    last = {line["stage"]: line["step"] + 1 for line in lines}
    steps = stage_steps(networks.settings)
    members, halves = ("discriminator-1", "discriminator-2"), [-(-steps.discriminator // 2), steps.discriminator // 2]
    assert list(last) == ["vqvae", "prior", "vqvae-X", "prior-X", "vqvae-Y", "prior-Y", *members, "discriminator"]
    assert list(last.values()) == [*(3 * [steps.vqvae, steps.prior])[:6], *halves, steps.discriminator]
    assert 60 - 3 < sum(last.values()) - sum(halves) <= 60


def test_evidence_is_the_mean_nll_of_the_codes_of_every_plane(networks: Networks, healthy: Path) -> None:
    prepared = prepare(read_volume(healthy / "scan03.nii.gz"), networks.settings.preparation)
    found = networks.evidence(networks.encode(prepared), None, shifts=1).nll_SHW
    own = dict(zip("ZXY", (networks, *networks.further), strict=True))
    maps = []
    for axis, order in (("Z", (0, 1, 2)), ("X", (1, 2, 0)), ("Y", (2, 1, 0))):
        slices = torch.from_numpy(np.ascontiguousarray(prepared.slices_SHW.transpose(order)))
        positions = torch.from_numpy(slice_positions(len(slices)))
        _, nll = own[axis].codes_and_nll(slices, positions)
        assert own[axis].settings.slice_axis == axis
        maps.append(nll_map(nll.numpy(), downsampling=4).transpose(np.argsort(order)))
    np.testing.assert_allclose(found, np.mean(maps, axis=0), rtol=1e-4, atol=1e-4)
    assert np.abs(maps[0] - found).mean() > 0.05


def test_the_paper_is_of_one_plane(networks: Networks, model: Path, healthy: Path) -> None:
    scan = networks.encode(prepare(read_volume(healthy / "scan03.nii.gz"), networks.settings.preparation))
    alone = replace(networks, further=())
    found, expected = (each.evidence(scan, None, as_encoded=True).nll_SHW for each in (networks, alone))
    assert np.array_equal(found, expected)
    assert np.array_equal(found, alone.evidence(scan, None, shifts=1).nll_SHW)


def test_networks_of_the_planes_differ_and_come_back(model: Path, networks: Networks, healthy: Path) -> None:
    first, *others = (each.vqvae.quantizer.vectors_KE for each in (networks, *networks.further))
    assert not any(torch.equal(first, other) for other in others)
    detection = mendscan.Detector.load(model, device="cpu").detect(healthy / "scan05.nii.gz")
    again = mendscan.Detector.load(model, device="cpu").detect(healthy / "scan05.nii.gz")
    assert np.array_equal(detection.map_XYZ, again.map_XYZ)
    assert detection.map_XYZ.max() > 0


@pytest.mark.parametrize(
    "stage", [pytest.param("prior", marks=pytest.mark.slow), "vqvae-X", pytest.param("prior-Y", marks=pytest.mark.slow)]
)
def test_stopped_in_any_plane_it_goes_on_to_the_same_model(
    model: Path, healthy: Path, tmp_path: Path, stage: str
) -> None:
    with pytest.raises(Interrupted):
        train(healthy, tmp_path / "stopped", progress=StopAt(stage, 2))
    train(healthy, tmp_path / "stopped", resume=True)
    digests = [hashlib.sha256((each / "model.safetensors").read_bytes()) for each in (model, tmp_path / "stopped")]
    assert digests[0].digest() == digests[1].digest()


@pytest.mark.parametrize(
    ("also", "said"),
    [
        ("preparation.scored_slices=4", "every slice"),
        ("preparation.slice_view=image", "every slice"),
        ("preparation.shape_XYZ=20,24,13", "not divisible"),
    ],
)
def test_planes_that_cannot_be_cut_are_refused(networks: Networks, also: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        override(networks.settings, [also])
