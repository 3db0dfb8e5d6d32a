"""Training as the original does it: epochs, what a step draws, losses, and what is recorded of each epoch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import mendscan
from mendscan.config import PRESETS, override
from mendscan.console import _duration
from mendscan.errors import Interrupted, SettingsError
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.training.budget import EpochEstimate, check_epochs
from mendscan.training.epochs import EpochMean, Epochs
from mendscan.training.request import Budget
from mendscan.training.stages import SliceData, fresh_prior_loss, validate_vqvae, vqvae_loss
from mendscan.training.workplace import read_plan
from training.test_trainer import StopAt, digests

TINY = (
    "preparation.shape_XYZ=16,16,12",
    "preparation.training_margin_slices=2",
    "preparation.scored_slices=4",
    "vqvae.channels=4,8",
    "vqvae.blocks_per_level=1",
    "vqvae.codes=8",
    "prior.channels=8",
    "prior.value_channels=8",
    "prior.blocks=1",
    "prior.layers_per_block=1",
    "prior.attention_kernel=1",
    "training.batch_slices=32",
    "detection.calibration_restorations=1",
)
SETTINGS = override(PRESETS["brain"], TINY)


def some_data(scans: int = 5) -> SliceData:
    slices = np.random.default_rng(0).normal(size=(scans + 1, 12, 16, 16)).astype(np.float32)
    slices[2, 4:7] = 0
    return SliceData(slices, tuple(range(1, scans + 1)), tuple(range(2, 10)), SETTINGS, torch.device("cpu"))


def drawn(data: SliceData, step: int, stage: str = "vqvae") -> np.ndarray:
    return data.draw(stage, step, generator=torch.Generator().manual_seed(step)).numpy()


# Epochs


@pytest.mark.parametrize(("scans", "steps"), [(1, 1), (8, 1), (9, 2), (780, 98)])
def test_an_epoch_takes_every_scan_once(scans: int, steps: int) -> None:
    epochs = Epochs.of(scans, PRESETS["brain"].training)
    assert epochs is not None
    assert epochs.steps == steps
    for epoch in (0, 3):
        taken = [epochs.scans_of(step, stage="vqvae", seed=0) for step in range(epoch * steps, (epoch + 1) * steps)]
        assert sorted(torch.cat(taken).tolist()) == list(range(scans))
        assert [len(part) for part in taken] == [epochs.scans_in(step) for step in range(steps)]
        assert [epochs.ends_with(step) for step in range(steps)] == [False] * (steps - 1) + [True]


def test_epochs_and_stages_have_orders_of_their_own() -> None:
    epochs = Epochs(40, 40, 8)
    orders = [epochs.scans_of(step, stage=stage, seed=0).tolist() for stage in ("vqvae", "prior") for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert epochs.scans_of(1, stage="prior", seed=0).tolist() == orders[3]


def test_a_step_draws_so_many_slices_of_each_scan_and_no_empty_one() -> None:
    data = some_data()
    scans, places = np.divmod(np.concatenate([drawn(data, step) for step in range(60)]), 8)
    assert len(drawn(data, 0)) == 4 * 8  # 32 slices a step: 8 of each of 4 scans, then of the one that is left
    assert len(drawn(data, 1)) == 8
    assert np.bincount(scans).tolist() == [30 * 8] * 5
    assert set(places[scans == 0]) == set(range(8))
    assert set(places[scans == 1]) == {0, 1, 5, 6, 7}  # slices 4 to 6 of the second scan show nothing


def test_a_scan_that_shows_nothing_is_drawn_all_the_same() -> None:
    data = some_data()
    data.slices_NSHW[:] = 0
    assert len(drawn(data, 0)) == 32


def test_the_mean_of_an_epoch_is_over_slices() -> None:
    mean = EpochMean(Epochs(5, 4, 8))
    for step, loss in enumerate([1.0, 6.0, 3.0, 8.0]):
        mean.add(step, loss)
    assert mean.figures(3) == {"epoch": 2, "epoch_loss": pytest.approx((4 * 3.0 + 8.0) / 5)}


# Losses


def test_the_vqvae_loss_is_its_formula() -> None:
    """mean|x − x̂| + mean(sg[z_e] − e)² + mean(z_e − sg[e])²."""
    data, vqvae = some_data(), VQVAE(SETTINGS.vqvae)
    validated = validate_vqvae(vqvae, data, quantise=True)
    chosen = data.spread(5 * 8)
    slices, position = data.batch(chosen)
    with torch.no_grad():
        latents = vqvae.eval().encode(slices, position)
        away = latents[:, None] - vqvae.quantizer.vectors_KE[None, :, :, None, None]
        code = away.pow(2).sum(2).argmin(1)
        embedded = vqvae.quantizer.vectors_KE[code].permute(0, 3, 1, 2)
        l1 = (vqvae.decode(embedded, position) - slices).abs().mean()
        loss = l1 + 2 * (latents - embedded).pow(2).mean()
    assert validated["holdout_l1"] == pytest.approx(float(l1), rel=1e-5)
    assert validated["holdout_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_loss_of_a_vqvae_step_is_that_of_its_augmented_slices() -> None:
    data, vqvae = some_data(), VQVAE(SETTINGS.vqvae).eval()
    losses = vqvae_loss(vqvae, data, 10)(3)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + 2 * losses["commitment"])
    losses["loss"].backward()
    assert vqvae.quantizer.vectors_KE.grad is not None


def test_the_prior_learns_from_slices_augmented_and_encoded_anew() -> None:
    data, vqvae, prior = some_data(), VQVAE(SETTINGS.vqvae).eval(), PixelSNAIL(SETTINGS.prior, codes=8).eval()
    seen = []
    prior.first.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    loss = fresh_prior_loss(prior, vqvae.train(), data)
    losses = [loss(step)["loss"] for step in (0, 2, 0)]
    assert not vqvae.training
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert losses[0] == losses[2]
    losses[0].backward()
    assert all(parameter.grad is None for parameter in vqvae.parameters())


# The command


def train(healthy: Path, model: Path, **options):
    arguments = {"preset": "brain", "device": "cpu", "assignments": TINY} | options
    return mendscan.train(healthy, model, **arguments)


@pytest.fixture(scope="module")
def trained(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EpochEstimate]]:
    folder, said = tmp_path_factory.mktemp("models") / "epochs", []
    train(healthy, folder, epochs=3, on_estimate=said.append)
    return folder, said


def test_epochs_are_fixed_said_beforehand_and_recorded(trained: tuple[Path, list[EpochEstimate]]) -> None:
    model, said = trained
    plan = json.loads((model / "plan.json").read_text())
    scans = len(json.loads((model / "split.json").read_text())["train"])
    steps = -(-scans // 4)
    assert [(each.epochs, each.steps) for each in said] == [(3, 2 * 3 * steps)]
    assert 0 < said[0].seconds < 600
    assert plan["settings"]["training"]["steps"] == 2 * 3 * steps
    assert plan["settings"]["training"]["epochs"] == 3
    assert "3 epochs of the VQ-VAE and as many of the prior" in plan["decisions"][-1]["reason"]


def test_both_losses_of_both_networks_are_recorded_for_every_epoch(trained: tuple[Path, list[EpochEstimate]]) -> None:
    entries = [json.loads(line) for line in (trained[0] / "metrics.jsonl").read_text().splitlines()]
    for stage, held_out in (("vqvae", "holdout_loss"), ("prior", "holdout_nll")):
        whole = [entry for entry in entries if entry["stage"] == stage and "epoch" in entry]
        assert [entry["epoch"] for entry in whole] == [1, 2, 3]
        assert all(np.isfinite([entry["epoch_loss"], entry[held_out]]).all() for entry in whole)
        steps = [entry["loss"] for entry in entries if entry["stage"] == stage]
        assert min(steps) <= whole[0]["epoch_loss"] <= max(steps)


@pytest.mark.parametrize(("stage", "step"), [pytest.param("vqvae", 4, marks=pytest.mark.slow), ("prior", 5)])
def test_stopped_within_an_epoch_and_resumed_equals_uninterrupted(
    trained: tuple[Path, list[EpochEstimate]], healthy: Path, tmp_path: Path, stage: str, step: int
) -> None:
    with pytest.raises(Interrupted):
        train(healthy, tmp_path / "stopped", epochs=3, progress=StopAt(stage, step))
    with pytest.raises(SettingsError, match="keeps its settings"):
        train(healthy, tmp_path / "stopped", epochs=4, resume=True)
    train(healthy, tmp_path / "stopped", resume=True)
    assert digests(tmp_path / "stopped") == digests(trained[0])


def test_a_preset_takes_the_papers_epochs_by_default(healthy: Path, tmp_path: Path) -> None:
    said: list[EpochEstimate] = []
    with pytest.raises(Interrupted):
        train(healthy, tmp_path / "model", on_estimate=said.append, progress=StopAt("vqvae", 1))
    assert said[0].epochs == 600
    assert read_plan(tmp_path / "model" / "work")["settings"]["training"]["epochs"] == 600


def test_steps_leave_no_epochs_in_the_plan(healthy: Path, tmp_path: Path) -> None:
    said: list[EpochEstimate] = []
    train(healthy, tmp_path / "model", steps=4, on_estimate=said.append)
    training = json.loads((tmp_path / "model" / "config.json").read_text())["settings"]["training"]
    assert (training["steps"], training["epochs"], said) == (4, None, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2, "minutes": 1.0}, "not two of them"),
        ({"epochs": 2, "steps": 10}, "not two of them"),
        ({"epochs": 0}, "no time to train"),
        ({"epochs": 2, "preset": "auto"}, "auto knows no epochs"),
        ({"steps": 0}, "no time to train"),
        ({"epochs": 2, "assignments": ("training.steps=9",)}, "given twice"),
        ({"steps": 4, "assignments": ("training.steps=9",)}, "given twice"),
        ({"minutes": 1.0, "assignments": ("training.epochs = 9",)}, "given twice"),
    ],
)
def test_contradictions_are_refused(healthy: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        train(healthy, tmp_path / "model", **options)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.slices_per_scan=none", "there are no epochs"),
        ("training.vqvae_share=0.4", "alike"),
        ("training.discriminator_share=0.1", "no other network"),
    ],
)
def test_epochs_that_cannot_be_are_refused_unless_time_or_steps_are_given(assignment: str, message: str) -> None:
    settings = override(SETTINGS, [assignment])
    with pytest.raises(SettingsError, match=message):
        check_epochs(settings, Budget())
    for asked in (Budget(minutes=1.0), Budget(steps=10)):
        check_epochs(settings, asked)
    check_epochs(override(settings, ["training.steps=10"]), Budget())


@pytest.mark.parametrize(
    ("seconds", "words"), [(40.0, "40 s"), (200.0, "3 minutes"), (147_600.0, "41 h"), (864_000.0, "10 days")]
)
def test_a_duration_is_said_in_its_largest_unit(seconds: float, words: str) -> None:
    assert _duration(seconds) == words
