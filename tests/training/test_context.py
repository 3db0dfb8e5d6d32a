"""A prior that sees the slices beside a slice: it learns from them, and only the NLL as evidence is made with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mendscan
from mendscan.cohort.preparing import prepare
from mendscan.config import override
from mendscan.detection.networks import Networks
from mendscan.detection.scoring import nll_map
from mendscan.errors import SettingsError
from mendscan.models.bundle import load_bundle
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.slice_context import beside
from mendscan.models.vqvae import VQVAE
from mendscan.training.loop import make_optimiser, train_steps
from mendscan.training.stages import CodeData, SliceData, encode_views, prior_loss, validate_prior
from mendscan.volumes.reading import read_volume
from tiny_settings import SETTINGS
from training.conftest import SMALL

GAP = 2


def test_what_is_beside_a_slice_is_of_the_same_scan_and_view() -> None:
    """Codes that say where they are from: view, scan and slice."""
    views, scans, slices = 2, 3, 5
    v, n, s = torch.meshgrid(torch.arange(views), torch.arange(scans), torch.arange(slices), indexing="ij")
    codes = (100 * v + 10 * n + s).reshape(views, -1, 1, 1).to(torch.int16)
    data = CodeData(codes, torch.zeros(scans * slices), slices)
    view, index = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 7, 14, 6])
    found = data.beside(view, index, GAP, missing=999).flatten(1)
    assert found.tolist() == [[999, 2], [110, 114], [122, 999], [999, 13]]


@pytest.mark.parametrize("gap", [0, GAP])
def test_slices_of_a_scan_are_augmented_alike_where_they_are_seen_together(gap: int) -> None:
    settings = override(SETTINGS, [f"prior.context_slices={gap}", "augmentation.noise=0", "augmentation.probability=1"])
    one_NHW = np.random.default_rng(0).normal(size=(3, 1, 16, 16)).astype(np.float32)
    data = SliceData(one_NHW.repeat(8, axis=1), (0, 1, 2), tuple(range(8)), settings, torch.device("cpu"))
    torch.manual_seed(0)
    vqvae = VQVAE(settings.vqvae)
    codes = encode_views(vqvae, data, 2, lambda count: None).codes_VNhw.unflatten(1, (3, 8))
    plain, augmented = (view.flatten(2) for view in codes)
    # The slice coordinate is an input of the encoder, so that a few codes differ though the slices are the same.
    usually = (plain[:, 1:] == plain[:, :-1]).float().mean()
    found = (augmented[:, 1:] == augmented[:, :-1]).float().mean()
    assert (found > 0.8 * usually) == bool(gap)


def test_a_prior_learns_what_only_the_slices_beside_tell() -> None:
    """Codes are random, but the same in all slices of a scan: its other slices tell all, its coordinate nothing."""
    settings = override(SETTINGS, [f"prior.context_slices={GAP}", "training.batch_slices=32", "seed=3"])
    scans, slices, codes = 40, 8, settings.vqvae.codes
    generator = torch.Generator().manual_seed(0)
    own = torch.randint(codes, (scans, 1, 4, 4), generator=generator).expand(-1, slices, -1, -1)
    data = CodeData(own.reshape(1, -1, 4, 4).to(torch.int16), torch.zeros(scans * slices), slices)
    torch.manual_seed(0)
    prior = PixelSNAIL(settings.prior, codes=codes)
    parameters = list(prior.parameters())
    optimiser = make_optimiser(parameters, settings.training, rate=1e-2)
    train_steps(
        parameters, optimiser, prior_loss(prior, data, settings), first_step=0, steps=150, seed_name="test",
        settings=settings.training, after_step=lambda step, losses: None,
    )  # fmt: skip
    figures = validate_prior(prior, data)
    assert figures["holdout_nll_beside"] < 0.5 * figures["holdout_nll"]


@pytest.fixture(scope="module")
def model(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "context"
    asked = (*SMALL, "preparation.planes=2", "preparation.shape_XYZ=20,24,12", f"prior.context_slices={GAP}")
    mendscan.train(healthy, folder, assignments=(*asked, "detection.evidence=nll"), steps=40, device="cpu")
    return folder


@pytest.fixture(scope="module")
def networks(model: Path) -> Networks:
    bundle = load_bundle(model)
    return Networks.of(bundle.networks, bundle.settings, device=torch.device("cpu"))


def test_both_figures_are_recorded(model: Path) -> None:
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines if "holdout_nll_beside" in line} == {"prior", "prior-X"}


def test_evidence_is_made_with_the_slices_beside_and_all_else_without(networks: Networks, healthy: Path) -> None:
    prepared = prepare(read_volume(healthy / "scan03.nii.gz"), networks.settings.preparation)
    alone = replace(networks, further=())
    scan = networks.encode(prepared)
    codes, position = scan.codes_Shw, scan.position_S
    with torch.inference_mode():
        given = networks.prior.nll(codes, position, beside(codes, GAP, missing=networks.settings.vqvae.codes))
        without = networks.prior.nll(codes, position)
    step = networks.settings.vqvae.downsampling
    found = alone.evidence(scan, None, shifts=1).nll_SHW
    np.testing.assert_allclose(found, nll_map(given.numpy(), downsampling=step), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scan.nll_Shw, without)
    as_encoded = networks.evidence(scan, None, as_encoded=True).nll_SHW
    np.testing.assert_allclose(as_encoded, nll_map(without.numpy(), downsampling=step), rtol=1e-4, atol=1e-4)
    assert np.abs(found - as_encoded).mean() > 0.01


def test_a_slice_counts_for_those_a_gap_away_and_for_no_other(networks: Networks, healthy: Path) -> None:
    prepared = prepare(read_volume(healthy / "scan03.nii.gz"), networks.settings.preparation)
    alone = replace(networks, further=())
    scan = alone.encode(prepared)
    changed = scan.slices_SHW.clone()
    changed[5] = -changed[5]
    before, after = (
        alone.evidence(replace(scan, slices_SHW=each), None, shifts=5).nll_SHW for each in (scan.slices_SHW, changed)
    )
    apart = np.abs(after - before).max(axis=(1, 2)) > 1e-4
    assert np.flatnonzero(apart).tolist() == [5 - GAP, 5, 5 + GAP]


@pytest.mark.parametrize(
    ("assignments", "found"),
    [
        (("preparation.scored_slices=4",), "scored_slices=4"),
        (("training.prior_views=none",), "prior_views=none"),
    ],
)
def test_settings_that_leave_no_slice_beside_are_refused(assignments: tuple[str, ...], found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        override(SETTINGS, [f"prior.context_slices={GAP}", *assignments])
