import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from baselines.conftest import blob_SHW, prepared_array
from mendscan.baselines.dae import NOISE_SPREAD, DaeBaseline, UNet, coarse_noise, fit_dae
from mendscan.baselines.fitting import BASELINES, fit_baseline
from mendscan.baselines.training import Budget, training_folder
from mendscan.baselines.vae import VAE, Posterior, VaeBaseline, fit_vae, kl_to_standard_normal
from mendscan.baselines.vqvae import VqvaeBaseline, fit_vqvae
from mendscan.errors import Interrupted, SettingsError
from mendscan.training.interrupts import StopRequest

NETWORKS = {"vae": fit_vae, "vqvae": fit_vqvae, "dae": fit_dae}
STEPS = 6


class StopAfter:
    """Progress that asks to stop once so many steps of training are done."""

    def __init__(self, stage: str, step: int) -> None:
        self.stop, self.stage, self.step = StopRequest(), stage, step
        self.now, self.done = "", 0

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        self.now, self.done = stage, done

    def advance(self, units: int = 1, **facts: float) -> None:
        self.done += units
        if (self.now, self.done) == (self.stage, self.step):
            self.stop.made = True

    def say(self, message: str) -> None:
        pass


def weights(baseline):
    return {name: tensor.numpy().tobytes() for name, tensor in baseline.tensors().items()}


@pytest.fixture(scope="module", params=list(NETWORKS))
def fitted(request, cohort, tmp_path_factory):
    """Each network after a few steps, and the folder it was trained in."""
    folder = tmp_path_factory.mktemp(request.param)
    return NETWORKS[request.param](cohort, Budget(steps=STEPS), training_folder(folder)), folder


def test_there_are_six_and_each_has_its_name():
    assert list(BASELINES) == ["intensity", "atlas", "pca", "vae", "vqvae", "dae"]
    assert [kind.name for kind in BASELINES.values()] == list(BASELINES)


def test_the_map_is_the_absolute_error_of_the_reconstruction(fitted, new_scan):
    baseline, prepared = fitted[0], new_scan()
    slices, positions = torch.from_numpy(prepared.slices_SHW), torch.from_numpy(prepared.positions_S)
    reconstruct = {
        "vae": lambda n: n.decode(n.encode(slices, positions).mean_BL, positions, slice_shape=(20, 24)),
        "vqvae": lambda n: n.decode_codes(n.codes(slices, positions), positions),
        "dae": lambda n: n(slices, positions),
    }[baseline.name]
    with torch.no_grad():
        expected_SHW = np.abs(prepared.slices_SHW - reconstruct(baseline.network).numpy())
    map_SHW = baseline.residual(prepared)
    assert map_SHW.dtype == np.float32
    np.testing.assert_allclose(map_SHW, expected_SHW, atol=1e-5)


def test_the_map_depends_on_the_slice_coordinate(fitted):
    same_SHW = np.broadcast_to(np.random.default_rng(0).normal(size=(1, 20, 24)), (12, 20, 24))
    map_SHW = fitted[0].residual(prepared_array(same_SHW))
    assert np.abs(map_SHW[0] - map_SHW[-1]).max() > 1e-4


def test_the_same_seed_gives_the_same_weights_and_another_one_others(fitted, cohort, tmp_path):
    baseline, fit = fitted[0], NETWORKS[fitted[0].name]
    assert weights(fit(cohort, Budget(steps=STEPS), training_folder(tmp_path / "again"))) == weights(baseline)
    other = replace(cohort, settings=cohort.settings.model_copy(update={"seed": 1}))
    assert weights(fit(other, Budget(steps=STEPS), training_folder(tmp_path / "other"))) != weights(baseline)


def test_fitting_leaves_the_global_random_state_alone(cohort, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for name, fit in NETWORKS.items():
        fit(cohort, Budget(steps=1), training_folder(tmp_path / name))
    assert torch.equal(torch.rand(2), expected)


def test_stopped_and_resumed_equals_uninterrupted(fitted, cohort, tmp_path):
    baseline = fitted[0]
    listener = StopAfter(baseline.name, 2)
    with pytest.raises(Interrupted, match="step 2 of 6"):
        fit_baseline(
            baseline.name,
            cohort,
            Budget(steps=STEPS),
            training_folder(tmp_path, progress=listener, stop=listener.stop),
        )
    resumed = fit_baseline(baseline.name, cohort, Budget(steps=STEPS), training_folder(tmp_path))
    assert weights(resumed) == weights(baseline)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (fitted[1] / "metrics.jsonl").read_bytes()


def test_a_finished_training_is_not_done_again(fitted, cohort):
    baseline, folder = fitted
    checkpoint = folder / "work" / f"{baseline.name}-{STEPS:08d}.safetensors"
    before = checkpoint.stat().st_mtime_ns
    again = fit_baseline(baseline.name, cohort, Budget(steps=STEPS), training_folder(folder))
    assert weights(again) == weights(baseline)
    assert checkpoint.stat().st_mtime_ns == before


def test_another_training_does_not_go_on_where_this_one_was(fitted, cohort):
    baseline, folder = fitted
    other = replace(cohort, settings=cohort.settings.model_copy(update={"seed": 1}))
    for scans, budget in (
        (cohort, Budget(steps=STEPS + 1)),
        (cohort, Budget(minutes=1.0)),
        (other, Budget(steps=STEPS)),
    ):
        with pytest.raises(SettingsError, match="another training was begun here"):
            fit_baseline(baseline.name, scans, budget, training_folder(folder))


def test_hold_out_error_is_logged(fitted):
    entries = [json.loads(line) for line in (fitted[1] / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["step"] == STEPS - 1
    assert 0 < entries[-1]["holdout_l1"] < 5


def test_minutes_become_steps_once(cohort, tmp_path):
    first = fit_dae(cohort, Budget(minutes=0.005), training_folder(tmp_path))
    recorded = json.loads((tmp_path / "work" / "dae.json").read_text())["steps"]
    assert first.steps == recorded >= 20
    assert fit_dae(cohort, Budget(minutes=0.005), training_folder(tmp_path)).steps == recorded
    assert weights(fit_dae(cohort, Budget(steps=recorded), training_folder(tmp_path / "repeated"))) == weights(first)


@pytest.mark.parametrize("wrong", [{}, {"minutes": 1.0, "steps": 5}, {"minutes": 0.0}, {"steps": -1}])
def test_a_budget_is_either_minutes_or_steps(wrong):
    with pytest.raises(ValueError, match="expected"):
        Budget(**wrong)


def test_an_unknown_baseline_is_an_error(cohort, tmp_path):
    with pytest.raises(ValueError, match="expected one of intensity, atlas"):
        fit_baseline("gan", cohort, Budget(steps=1), training_folder(tmp_path))


@pytest.mark.parametrize("shape", [(5, 7), (17, 33), (40, 21), (9, 64)])
@pytest.mark.parametrize("kind", ["vae", "dae"])
def test_slices_of_any_size_come_back_in_that_size(kind, shape):
    network = VAE(shape, latents=8) if kind == "vae" else UNet()
    baseline = (VaeBaseline if kind == "vae" else DaeBaseline)(network, torch.device("cpu"), 0)
    map_SHW = baseline.residual(prepared_array(np.random.default_rng(0).normal(size=(3, *shape))))
    assert map_SHW.shape == (3, *shape)
    assert np.isfinite(map_SHW).all()


def test_a_slice_is_reconstructed_the_same_whatever_lies_beside_it(fitted):
    many_SHW = np.random.default_rng(0).normal(size=(40, 20, 24)).astype(np.float32)
    changed_SHW = many_SHW.copy()
    changed_SHW[20:] = 0
    first, second = (fitted[0].residual(prepared_array(scan)) for scan in (many_SHW, changed_SHW))
    np.testing.assert_array_equal(first[:20], second[:20])


def test_kl_equals_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_to_standard_normal(Posterior(mean, log_variance)), expected)


def test_the_drawn_latents_have_the_posteriors_mean_and_variance():
    vae = VAE((8, 8), latents=3)
    seen = []
    vae.decode = lambda latents, position, **_: seen.append(latents) or torch.zeros(4000, 8, 8)
    slices, position = torch.randn(1, 8, 8).expand(4000, 8, 8), torch.zeros(4000)
    with torch.no_grad():
        _, posterior = vae(slices, position, noise_BL=torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(seen[0].mean(0), posterior.mean_BL[0], atol=0.1, rtol=0.1)
    torch.testing.assert_close(seen[0].var(0).log(), posterior.log_variance_BL[0], atol=0.1, rtol=0.1)


def test_noise_has_the_stated_spread_at_every_pixel_and_is_coarse():
    noise_BHW = coarse_noise(6000, 19, 26, spread=0.7, cell_pixels=8, generator=torch.Generator().manual_seed(0))
    assert noise_BHW.shape == (6000, 19, 26)
    assert noise_BHW.std(dim=0).sub(0.7).abs().max() < 0.03
    assert noise_BHW.mean(dim=0).abs().max() < 0.05
    # Its oracle is the correlation of linear interpolation between random points: high nearby, none two cells away.
    near = (noise_BHW[:, :, 1:] * noise_BHW[:, :, :-1]).mean() / 0.49
    far = (noise_BHW[:, :, 17:] * noise_BHW[:, :, :-17]).mean() / 0.49
    assert near > 0.93
    assert far.abs() < 0.02


def test_finer_noise_changes_faster():
    def smoothness(cell):
        noise = coarse_noise(500, 24, 24, spread=1.0, cell_pixels=cell, generator=torch.Generator().manual_seed(0))
        return float((noise[:, 1:] * noise[:, :-1]).mean() / noise.square().mean())

    assert smoothness(16) > smoothness(8) > smoothness(3)


def test_training_adds_noise_to_the_foreground_only(cohort, tmp_path, monkeypatch):
    data, foreground = (part(cohort.split.train) for part in (cohort.slices, cohort.foregrounds))
    from mendscan.baselines import dae
    from mendscan.training.loop import generator_for

    seen = []
    monkeypatch.setattr(UNet, "forward", lambda self, slices, position: seen.append(slices) or slices.detach())
    dae._dae_step(UNet(), data, foreground, 5)
    generator = generator_for(cohort.settings.seed, "dae", 5)
    indices = torch.randint(len(data), (16,), generator=generator)
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    clean_BHW, _ = data.augmented(indices, generator=generator)
    inside_BHW = foreground.augmented(indices, generator=twin)[0] > 0.5
    added_BHW = seen[0] - clean_BHW
    assert 0.2 < inside_BHW.float().mean() < 0.9
    assert (added_BHW[~inside_BHW] == 0).all()
    assert added_BHW[inside_BHW].std() == pytest.approx(NOISE_SPREAD, rel=0.3)


def test_the_augmented_foreground_lies_where_the_augmented_slice_shows_something(cohort):
    data, foreground = (part(cohort.split.train) for part in (cohort.slices, cohort.foregrounds))
    indices = data.spread(32)
    slices_BHW, _ = data.augmented(indices, generator=torch.Generator().manual_seed(1))
    same_BHW, _ = foreground.augmented(indices, generator=torch.Generator().manual_seed(1))
    other_BHW, _ = foreground.augmented(indices, generator=torch.Generator().manual_seed(2))
    brighter_than_background = slices_BHW > slices_BHW.flatten(1).quantile(0.1, dim=1)[:, None, None] + 1

    def overlap(inside_BHW):
        both = ((inside_BHW > 0.5) & brighter_than_background).sum()
        return float(2 * both / ((inside_BHW > 0.5).sum() + brighter_than_background.sum()))

    assert overlap(same_BHW) > overlap(other_BHW) + 0.02
    assert overlap(same_BHW) > 0.85


@pytest.mark.parametrize("name", ["vae", "dae"])
def test_after_a_short_training_a_blob_stands_out(name, cohort, new_scan, tmp_path):
    baseline = NETWORKS[name](cohort, Budget(steps=120), training_folder(tmp_path))
    map_SHW, healthy_SHW = baseline.residual(new_scan(blob=4.0)), baseline.residual(new_scan())
    outside = new_scan().foreground_SHW.copy()
    outside[blob_SHW()] = False
    assert map_SHW[blob_SHW()].mean() > 2 * map_SHW[outside].mean()
    assert map_SHW[blob_SHW()].mean() > 2 * healthy_SHW[blob_SHW()].mean()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    errors = [entry["holdout_l1"] for entry in entries if "holdout_l1" in entry]
    assert errors[-1] < 0.6 * errors[0]


def test_the_vqvae_is_the_plans_own_network(cohort, tmp_path):
    baseline = fit_vqvae(cohort, Budget(steps=2), training_folder(tmp_path))
    assert isinstance(baseline, VqvaeBaseline)
    assert baseline.network.settings == cohort.settings.vqvae


def test_bfloat16_trains_too(cohort, tmp_path):
    training = cohort.settings.training.model_copy(update={"precision": "bfloat16"})
    lower = replace(cohort, settings=cohort.settings.model_copy(update={"training": training}))
    for name, fit in NETWORKS.items():
        baseline = fit(lower, Budget(steps=2), training_folder(tmp_path / name))
        assert {t.dtype for t in baseline.tensors().values() if t.is_floating_point()} == {torch.float32}
        assert all(torch.isfinite(t).all() for t in baseline.tensors().values())
