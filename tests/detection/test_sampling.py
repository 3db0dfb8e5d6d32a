"""Samples are drawn by the definition, whatever is drawn beside them, and files say what they show."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from typer.testing import CliRunner

import mendscan
from detection.test_restoration import K, random_prior
from mendscan.cli import app
from mendscan.config import Settings
from mendscan.detection import sampling
from mendscan.detection.networks import Networks
from mendscan.detection.restoration import restore_sequentially
from mendscan.detection.sampling import Samples, sample, sample_uniforms, trained_positions
from mendscan.errors import MendscanError, ModelError, SettingsError, WriteError
from mendscan.models.pixelsnail import PriorSteps
from mendscan.progress import Silent
from mendscan.report.samples import MOST_IN_A_PICTURE, check_samples_file, draw_samples, save_samples


def drawn(prior, position_n, latent_shape=(4, 6), seed=0) -> torch.Tensor:
    return sampling._sample_codes(prior, position_n, latent_shape, seed, Silent())


# The definition


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("n", [1, 8, 11])
def test_sampling_is_the_sequential_definition(step: int, n: int) -> None:
    prior = random_prior(3, step=step)
    position = torch.linspace(-0.5, 0.5, n, dtype=torch.float64)
    uniforms = sample_uniforms(5, range(n), (4, 6))[0]
    start = torch.randint(K, (n, 4, 6), generator=torch.Generator().manual_seed(0))
    expected = restore_sequentially(prior, start, position, uniforms, threshold_nats=-1.0)
    found = drawn(prior, position, seed=5)
    assert torch.equal(found, expected), "what was there before must not matter: every code is replaced"
    assert len(found.unique()) > 2


def test_also_with_the_weights_of_a_model(model_folder: Path, networks: Networks) -> None:
    samples = sample(model_folder, 10, seed=2)
    position = torch.from_numpy(samples.position_n)
    uniforms = sample_uniforms(2, range(10), networks.settings.latent_shape)[0]
    start = torch.zeros(10, *networks.settings.latent_shape, dtype=torch.long)
    expected = restore_sequentially(networks.prior, start, position, uniforms, threshold_nats=-1.0)
    np.testing.assert_array_equal(samples.codes_nhw, expected.numpy())
    with torch.inference_mode():
        slices = networks.vqvae.decode_codes(expected, position).numpy()
    np.testing.assert_allclose(samples.slices_nHW, slices, atol=1e-5)


def test_codes_follow_the_prior() -> None:
    """Of the first code the prior's distribution is known without any sampling."""
    prior, n = random_prior(1), 1000
    position = torch.full((n,), 0.25, dtype=torch.float64)
    codes = drawn(prior, position, latent_shape=(1, 2))
    with torch.no_grad():
        first = torch.softmax(prior(codes[:1], position[:1]), dim=1)[0, :, 0, 0]
    counts = torch.bincount(codes[:, 0, 0], minlength=K)
    assert chisquare(counts.numpy(), n * first.numpy()).pvalue > 1e-3


def test_every_position_is_evaluated_once(model_folder: Path, networks: Networks, monkeypatch) -> None:
    rows = []

    def counted(steps: PriorSteps, row: int, column: int) -> torch.Tensor:
        logits = original(steps, row, column)
        rows.append(len(logits))
        return logits

    original = PriorSteps.step
    monkeypatch.setattr(PriorSteps, "step", counted)
    sample(model_folder, 13)
    height, width = networks.settings.latent_shape
    assert rows == [sampling._BATCH] * (2 * height * width), "13 samples are two batches"


# The same samples, whatever is beside them


def test_fewer_samples_are_the_first_of_more(model_folder: Path) -> None:
    many = sample(model_folder, 19, position=0.1, seed=4)
    for n in (1, 3, 8, 9):
        few = sample(model_folder, n, position=0.1, seed=4)
        np.testing.assert_array_equal(few.codes_nhw, many.codes_nhw[:n])
        np.testing.assert_array_equal(few.slices_nHW, many.slices_nHW[:n])
    assert len(np.unique(many.codes_nhw, axis=0)) > 10


def test_samples_do_not_depend_on_the_threads(model_folder: Path, monkeypatch) -> None:
    first = sample(model_folder, 20, seed=1)
    monkeypatch.setattr(sampling, "available_cores", lambda: 3)
    np.testing.assert_array_equal(sample(model_folder, 20, seed=1).slices_nHW, first.slices_nHW)


def test_another_seed_gives_others(model_folder: Path) -> None:
    first, second = (sample(model_folder, 4, seed=seed).codes_nhw for seed in (0, 1))
    assert (first != second).any(axis=(1, 2)).all()


# Positions and temperature


def test_positions_are_spread_over_what_was_trained(tiny_settings: Settings) -> None:
    preparation = tiny_settings.preparation.model_copy(update={"shape_XYZ": (16, 16, 11), "training_margin_slices": 2})
    settings = tiny_settings.model_copy(update={"preparation": preparation})
    trained = trained_positions(settings)
    np.testing.assert_allclose(trained, np.arange(-3, 4) / 10, atol=1e-6)
    spread = {n: sampling._positions(settings, n, None).numpy() for n in (1, 2, 7, 14)}
    np.testing.assert_array_equal(spread[1], trained[3:4])
    np.testing.assert_array_equal(spread[2], trained[[1, 5]])
    np.testing.assert_array_equal(spread[7], trained)
    np.testing.assert_array_equal(spread[14], np.repeat(trained, 2))
    with pytest.raises(SettingsError, match=r"-0\.3 \(first slice\) to 0\.3 \(last slice\)"):
        sampling._positions(settings, 1, 0.4)


def test_temperature_divides_the_logits() -> None:
    prior = random_prior(2)
    codes, position = torch.zeros(2, 4, 6, dtype=torch.long), torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        plain = prior(codes, position)
        torch.testing.assert_close(sampling._at_temperature(prior, 2.5)(codes, position), plain / 2.5)
        assert torch.equal(prior(codes, position), plain), "the model itself stays as it is"


def test_the_lowest_temperature_leaves_nothing_to_chance(model_folder: Path) -> None:
    cold = sample(model_folder, 9, position=0.0, temperature=1e-6)
    assert len(np.unique(cold.codes_nhw, axis=0)) == 1


# What cannot be asked for


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n": 0}, "n: no sample"),
        ({"seed": -1}, "seed"),
        ({"position": 0.51}, "position"),
        ({"position": float("nan")}, "position"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_impossible_requests_are_refused(model_folder: Path, wrong: dict, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        sample(model_folder, **wrong)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a complete model"):
        mendscan.sample(tmp_path)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("a.jpg", SettingsError, r"\.png or \.nii\.gz"),
        ("a", SettingsError, r"\.png or \.nii\.gz"),
        ("a.nii", SettingsError, r"\.png or \.nii\.gz"),
        ("nowhere/a.png", WriteError, "the folder is not there"),
        ("folder.png", WriteError, "the file is a folder"),
    ],
)
def test_files_that_cannot_be_written_are_refused(tmp_path: Path, name: str, error: type, words: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(error, match=words):
        check_samples_file(tmp_path / name, 4)


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, whom no mode stops
    with pytest.raises(WriteError, match="nothing can be written"):
        check_samples_file(tmp_path / "a.png", 4)


def test_a_picture_holds_only_so_many(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"write a \.nii\.gz"):
        check_samples_file(tmp_path / "a.png", MOST_IN_A_PICTURE + 1)
    check_samples_file(tmp_path / "a.nii.gz", MOST_IN_A_PICTURE + 1)


# Files


@pytest.fixture(scope="module")
def three(model_folder: Path) -> Samples:
    return sample(model_folder, 3, seed=7)


@pytest.mark.parametrize("axis", ["X", "Y", "Z"])
def test_the_nifti_file_holds_the_slices(three: Samples, tmp_path: Path, axis: str) -> None:
    grid = {"slice_axis": axis, "spacing_mm": (2.0, 3.0, 4.0)}
    turned = replace(three, preparation=three.preparation.model_copy(update=grid))
    save_samples(turned, tmp_path / "s.nii.gz")
    image = nib.load(tmp_path / "s.nii.gz")
    slices = np.moveaxis(np.asanyarray(image.dataobj), "XYZ".index(axis), 0)
    np.testing.assert_array_equal(slices, three.slices_nHW)
    np.testing.assert_array_equal(image.affine, np.diag([2.0, 3.0, 4.0, 1.0]))
    assert turned.pixel_mm == {"X": (3.0, 4.0), "Y": (2.0, 4.0), "Z": (2.0, 3.0)}[axis]


def test_the_picture_says_what_it_shows(three: Samples) -> None:
    figure = draw_samples(three)
    words = " ".join(text.get_text() for text in figure.texts)
    for wanted in ("3 axial slices", three.model_hash[:12], "seed 7", "neurological", "research use only"):
        assert wanted in words
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"{c:+.3f}" for c in three.position_n]
    for axes, slice_HW in zip(shown, three.slices_nHW, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), slice_HW.T)
        assert axes.images[0].origin == "lower", "the second axis, towards anterior, runs up"
        sides = {text.get_text(): text.get_position() for text in axes.texts}
        assert sides["L"][0] < sides["R"][0]
        assert sides["P"][1] < sides["A"][1]
    assert len({image.get_clim() for axes in shown for image in axes.images}) == 1


def test_the_command_writes_a_picture_the_same_each_time(model_folder: Path, tmp_path: Path) -> None:
    written = []
    for name in ("a.png", "b.png"):
        shown = CliRunner().invoke(
            app, ["sample", "-m", str(model_folder), "-n", "5", "--position", "-0.2", "-o", str(tmp_path / name)]
        )
        assert shown.exit_code == 0, shown.output
        assert "Research use only" in shown.output
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "0"], "no sample is asked for"),
        (["--position", "2"], "trained on no slice there"),
        (["-o", "a.tiff"], "unknown kind of file"),
        (["-o", "/nowhere/a.png"], "the folder is not there"),
    ],
)
def test_the_command_refuses_in_one_line(model_folder: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "a.png")]
    shown = CliRunner().invoke(app, ["sample", "-m", str(model_folder), *arguments, *output])
    assert shown.exit_code == 2
    assert words in re.sub(r"[\s│]+", " ", shown.output)
    assert not list(tmp_path.iterdir())
    assert MendscanError.__name__ not in shown.output


def test_the_progress_bar_moves(model_folder: Path) -> None:
    """It follows the thread that began it, and batches are drawn in others."""
    moved: list[str] = []

    class Bar(Silent):
        def advance(self, units: int = 1, **figures: float) -> None:
            moved.append(threading.current_thread().name)

    sample(model_folder, 9, progress=Bar())
    assert moved == [threading.current_thread().name] * 2
