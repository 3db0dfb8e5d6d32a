"""The original's checkpoints become a model folder that detects, calibrated or not, and says which."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mendscan.cli import app
from mendscan.cohort.preparing import prepare
from mendscan.detection.batch import detect_folder
from mendscan.detection.calibration import Calibration
from mendscan.detection.detector import Detector
from mendscan.detection.voxel_calibration import VoxelCalibration
from mendscan.errors import CohortError, MendscanError, ModelError, SettingsError
from mendscan.models.bundle import load_bundle
from mendscan.models.original import WRAPPED
from mendscan.training import importing
from mendscan.training.calibrating import recalibrate
from mendscan.training.importing import ImportSummary, import_original
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume
from models import original_layout as original
from models.original_layout import SMALL, Layout, State
from training.conftest import write_phantoms

SIZES = (
    "preparation.shape_XYZ=32,32,10",
    "preparation.scored_slices=5",
    "preparation.training_margin_slices=0",
    "vqvae.channels=4,6,8,10",
    "vqvae.codes=12",
    "vqvae.blocks_per_level=1",
    "prior.channels=6",
    "prior.blocks=2",
    "prior.layers_per_block=2",
    "prior.value_channels=6",
    "detection.calibration_restorations=1",
)


class Said:
    """Keeps what progress is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, stage: str, total: int, *, done: int = 0) -> None: ...

    def advance(self, units: int = 1, **facts: float) -> None: ...

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def states() -> tuple[State, State]:
    return original.vqvae_state(SMALL), original.prior_state(SMALL)


def wrapped(vqvae: State, prior: State) -> State:
    return {**prior, **{f"{WRAPPED}{name}": tensor for name, tensor in vqvae.items()}}


@pytest.fixture(scope="module")
def files(states: tuple[State, State], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("private-folder")
    vqvae, prior = states
    torch.save(vqvae, folder / "feats.pt")
    torch.save(wrapped(vqvae, prior), folder / "la.pt")
    return folder / "feats.pt", folder / "la.pt"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported-healthy")
    write_phantoms(folder, 3, seed=8)
    return folder


@pytest.fixture(scope="module")
def uncalibrated(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("imported") / "model"
    import_original(files[1], model, vqvae=files[0], assignments=SIZES, device="cpu")
    return model


def refusal(kind: type[MendscanError], *args: Any, assignments: tuple[str, ...] = SIZES, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        import_original(*args, assignments=assignments, device="cpu", **options)
    return str(caught.value)


def test_the_imported_model_sees_slices_and_codes_as_the_original_does(uncalibrated, states, scans) -> None:
    """The original's way to its slices, in its own words, on the model grid; then its codes and their NLL."""
    detector, (vqvae, prior) = Detector.load(uncalibrated, device="cpu"), states
    volume = read_volume(find_scans(scans)[1])
    prepared = prepare(volume, detector.settings.preparation)
    encoded = detector.networks.encode(prepared)
    voxels_XYZ = prepare(volume, detector.settings.preparation.model_copy(update={"slice_view": "array"})).slices_SHW
    theirs = voxels_XYZ.transpose(1, 2, 0).transpose(2, 1, 0)[:, ::-1, :][encoded.at]
    assert np.array_equal(theirs, encoded.slices_SHW.numpy())
    coordinate = torch.from_numpy(np.linspace(-0.5, 0.5, 10, dtype=np.float32)[encoded.at])
    latents = original.encode(vqvae, torch.from_numpy(theirs.copy()), coordinate, padding=False)
    codes = original.distances(vqvae, latents).argmin(-1)
    assert torch.equal(codes, encoded.codes_Shw)
    nll = torch.nn.functional.cross_entropy(original.logits(prior, codes, coordinate, SMALL), codes, reduction="none")
    torch.testing.assert_close(encoded.nll_Shw, nll, rtol=1e-3, atol=1e-3)
    score = float((nll * (nll > 7)).sum())
    assert detector.detect(volume, maps=False).score == pytest.approx(score, rel=1e-3)


def test_without_healthy_scans_the_originals_thresholds_are_kept_and_nothing_is_claimed(uncalibrated, scans) -> None:
    detector = Detector.load(uncalibrated, device="cpu")
    thresholds = detector.calibration.thresholds
    assert (thresholds.score, thresholds.restoration) == (7.0, 5.0)
    detection = detector.detect(find_scans(scans)[0], restorations=2)
    assert detection.p_value == 1
    assert detection.findings == ()
    assert detection.map_XYZ.shape == detection.volume.shape
    assert 0 < detection.map_XYZ.max() <= 1
    with pytest.raises(ModelError, match="does not know the findings"):
        detector.detect(find_scans(scans)[0], false_positives_per_scan=1.0)


def test_detection_with_an_uncalibrated_model_says_so(uncalibrated, scans, tmp_path: Path) -> None:
    said = Said()
    summary = detect_folder(uncalibrated, scans, tmp_path, restorations=1, device="cpu", workers=0, progress=said)
    assert summary.failed == 0
    assert [line for line in said.lines if "not calibrated" in line] == said.lines != []
    assert json.loads((tmp_path / "results.json").read_text())["calibration_scans"] == 0
    assert all(row["flagged"] is None and row["p_value"] == 1 for row in summary.rows)


def test_the_bundle_names_the_files_and_no_path(uncalibrated: Path, files: tuple[Path, Path]) -> None:
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for name in ("plan.json", "split.json"):
        imported = json.loads((uncalibrated / name).read_text())["imported"]
        assert {file["name"]: file["sha256"] for file in imported["files"]} == digests
        assert imported["calibrated"] is False
    card = (uncalibrated / "README.md").read_text()
    assert all(part in card for entry in digests.items() for part in entry)
    assert "Not calibrated" in card
    assert "Not a medical device" in card
    for path in uncalibrated.iterdir():
        assert b"private-folder" not in path.read_bytes()


def test_with_healthy_scans_all_of_them_calibrate(files, scans: Path, tmp_path: Path) -> None:
    summary = import_original(files[1], tmp_path / "m", vqvae=files[0], healthy=scans, assignments=SIZES, device="cpu")
    split = json.loads((tmp_path / "m" / "split.json").read_text())
    hashes = sorted(read_volume(path).content_hash for path in find_scans(scans))
    assert (split["train"], split["validation"], split["calibration"]) == ([], [], hashes)
    assert summary.calibration_scans == 3
    detector = Detector.load(tmp_path / "m", device="cpu")
    calibration = detector.calibration
    assert calibration.thresholds == summary.thresholds
    assert summary.thresholds != importing.ORIGINAL_THRESHOLDS
    own = [detector.detect(path, maps=False).score for path in find_scans(scans)]
    assert sorted(own) == pytest.approx(calibration.healthy_scores, rel=1e-5)
    new = detector.detect(write_phantoms(tmp_path / "new", 1, seed=77)[0], restorations=1)
    assert new.p_value in (0.25, 0.5, 0.75, 1.0)
    assert 0 < calibration.voxels.threshold < 1
    card = (tmp_path / "m" / "README.md").read_text()
    assert "3 healthy scans" in card
    assert "Not calibrated" not in card
    assert json.loads((tmp_path / "m" / "plan.json").read_text())["fingerprint"]["scans"] == 3


def test_the_standardised_map_can_be_had_with_healthy_scans(files, scans: Path, tmp_path: Path) -> None:
    chosen = (*SIZES, "detection.voxel_map=standardised", "detection.evidence=nll")
    import_original(files[1], tmp_path / "m", healthy=scans, assignments=chosen, device="cpu")
    detector = Detector.load(tmp_path / "m", device="cpu")
    detection = detector.detect(find_scans(scans)[0], restorations=1)
    assert detection.threshold == 0.5
    assert detection.map_XYZ.max() > 0.2


def test_a_better_reconstruction_with_the_other_stem_is_said(files, scans: Path, tmp_path: Path, monkeypatch) -> None:
    nothing_learnt = Calibration(importing.ORIGINAL_THRESHOLDS, (), VoxelCalibration(threshold=1.0))
    monkeypatch.setattr(importing, "calibrate", lambda *_, **__: nothing_learnt)
    lines = {}
    for padding in (False, True):
        said = Said()
        summary = import_original(
            files[1], tmp_path / f"{padding}", stem_padding=padding, healthy=scans, assignments=SIZES,
            device="cpu", progress=said,
        )  # fmt: skip
        lines[padding] = [line for line in said.lines if "reconstructed better" in line]
        assert summary.settings.vqvae.stem_padding is padding
        own, other = summary.figures.values()
        assert bool(lines[padding]) == (other < own)
    assert len(lines[False]) + len(lines[True]) == 1
    option = "--stem-padding" if lines[False] else "--no-stem-padding"
    assert f" with {option}:" in (lines[False] or lines[True])[0]


def test_the_auto_encoder_inside_the_priors_checkpoint_serves(files, uncalibrated: Path, tmp_path: Path) -> None:
    summary = import_original(files[1], tmp_path / "m", assignments=SIZES, device="cpu")
    assert [file["network"] for file in summary.files] == ["vqvae, prior"]
    ours, theirs = load_bundle(tmp_path / "m"), load_bundle(uncalibrated)
    for name, tensor in theirs.networks["vqvae"].state_dict().items():
        assert torch.equal(ours.networks["vqvae"].state_dict()[name], tensor)


def test_a_training_checkpoint_is_imported_and_what_is_left_is_said(states, tmp_path: Path) -> None:
    torch.save({"model": wrapped(*states), "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "la_100.pt")
    said = Said()
    import_original(tmp_path / "la_100.pt", tmp_path / "m", assignments=SIZES, device="cpu", progress=said)
    assert said.lines == ["la_100.pt: not needed and left: epoch, optimizer"]


def test_the_submitted_abdomen_needs_no_further_settings(tmp_path: Path) -> None:
    layout = Layout((4, 5, 6, 7, 10), (2, 2), codes=12, per_level=1, width=6, blocks=2, pairs=2, step=1, first=3)
    torch.save(wrapped(original.vqvae_state(layout), original.prior_state(layout)), tmp_path / "la.pt")
    sizes = (*(each for each in SIZES if "channels=4" not in each), "vqvae.channels=4,5,6,7,10")
    summary = import_original(tmp_path / "la.pt", tmp_path / "m", preset="abdomen", assignments=sizes, device="cpu")
    assert (summary.settings.prior.first_kernel, summary.settings.prior.attention_downsampling) == (3, 1)
    assert summary.settings.preparation.intensity == "range"


# Refusals


def test_a_prior_of_another_auto_encoder_is_refused(states, files, tmp_path: Path) -> None:
    vqvae, _ = states
    torch.save({**vqvae, "Q.0.bias": vqvae["Q.0.bias"] + 1e-3}, tmp_path / "other.pt")
    text = refusal(ModelError, files[1], tmp_path / "m", vqvae=tmp_path / "other.pt")
    assert "another VQ-VAE" in text
    assert "Q.0.bias" in text
    assert not (tmp_path / "m").exists()


def test_no_auto_encoder_at_all_is_refused(states, tmp_path: Path) -> None:
    torch.save(states[1], tmp_path / "la.pt")
    assert "give it with --vqvae" in refusal(ModelError, tmp_path / "la.pt", tmp_path / "m")


def test_other_widths_are_refused_with_the_tensor_and_both_shapes(files, tmp_path: Path) -> None:
    sizes = tuple(each for each in SIZES if "prior.channels" not in each)
    text = refusal(ModelError, files[1], tmp_path / "m", assignments=sizes)
    assert "ini_conv.weight does not fit (found 6×12×24 torch.float32, expected 128×12×24" in text
    assert "la.pt" in text


def test_the_two_files_the_wrong_way_round_are_refused(files, tmp_path: Path) -> None:
    refusal(ModelError, files[0], tmp_path / "m", vqvae=files[1])


def test_a_stem_without_padding_that_loses_positions_is_refused(files, tmp_path: Path) -> None:
    sizes = (*(each for each in SIZES if "vqvae.channels" not in each), "vqvae.channels=4,6,10")
    text = refusal(SettingsError, files[1], tmp_path / "m", assignments=sizes)
    assert "found 7×7, expected 8×8" in text


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("vqvae.norm=group", "normalises by batch"),
        ("training.discriminator_share=0.5", "no discriminator"),
        ("preparation.planes=2", "one plane"),
        ("prior.context_slices=1", "sees no other slice"),
        ("detection.voxel_map=standardised", "give --healthy"),
    ],
)
def test_what_an_imported_model_cannot_have_is_refused(files, tmp_path: Path, assignment: str, reason: str) -> None:
    possible = (
        "preparation.shape_XYZ=32,32,16",
        "preparation.scored_slices=none",
        "preparation.slice_view=array",
        "training.prior_views=1",
    )
    assert reason in refusal(SettingsError, files[1], tmp_path / "m", assignments=(*SIZES, *possible, assignment))


def test_the_paper_alone_scores_an_imported_model(files, scans, tmp_path: Path) -> None:
    parts = ("detection.voxel_map=standardised", "detection.evidence=nll", "detection.scan_score=parts")
    text = refusal(SettingsError, files[1], tmp_path / "m", healthy=scans, assignments=(*SIZES, *parts))
    assert "training scans" in text


def test_nothing_is_overwritten(files, uncalibrated: Path, tmp_path: Path) -> None:
    assert "there is a model already" in refusal(ModelError, files[1], uncalibrated)
    (tmp_path / "stopped" / "work").mkdir(parents=True)
    assert "there is a model already" in refusal(ModelError, files[1], tmp_path / "stopped")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(ModelError, files[1], tmp_path / "file")


def test_healthy_scans_that_are_none_are_refused(files, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refusal(CohortError, files[1], tmp_path / "m", healthy=tmp_path / "empty")
    (tmp_path / "empty" / "bad.nii.gz").write_bytes(b"x")
    assert "too few healthy scans" in refusal(CohortError, files[1], tmp_path / "m", healthy=tmp_path / "empty")
    assert "unknown preset" in refusal(SettingsError, files[1], tmp_path / "m", preset="knee")


def test_calibrating_again_what_never_was_is_refused(uncalibrated: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no calibration scans"):
        recalibrate(uncalibrated, scans, tmp_path / "again", device="cpu")


# The command


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["import-original", *map(str, arguments)])


def test_the_command_says_what_it_did_and_what_it_did_not(files, tmp_path: Path) -> None:
    sizes = [part for each in SIZES for part in ("--set", each)]
    shown = run("--vqvae", files[0], "--prior", files[1], "-o", tmp_path / "m", *sizes)
    text = re.sub(r"\s+", " ", shown.output)
    assert shown.exit_code == 0, shown.output
    assert "not calibrated: every p-value will be 1" in text
    assert "set by hand in the original" in text
    assert "not a medical device" in text
    again = run("--prior", files[1], "-o", tmp_path / "m", *sizes)
    assert again.exit_code == 2
    assert "there is a model already" in again.output


def test_the_command_refuses_in_one_line(files, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"x" * 100)
    shown = run("--prior", tmp_path / "bad.pt", "-o", tmp_path / "m")
    assert shown.exit_code == 2
    assert "Traceback" not in shown.output
    assert "bad.pt" in re.sub(r"\s+", "", shown.output)
    assert not (tmp_path / "m").exists()


def test_the_summary_counts_weights(files, tmp_path: Path) -> None:
    summary: ImportSummary = import_original(files[1], tmp_path / "m", assignments=SIZES, device="cpu")
    assert set(summary.parameters) == {"vqvae", "prior"}
    bundle = load_bundle(tmp_path / "m")
    assert summary.parameters["prior"] == sum(p.numel() for p in bundle.networks["prior"].parameters())
