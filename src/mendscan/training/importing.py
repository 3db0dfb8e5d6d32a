"""Checkpoints of the original system become a model folder: read, map, calibrate, write.

The original has two thresholds, set by hand, and no calibration.  Without healthy scans an imported model keeps the two
and claims nothing about healthy scans: every p-value is 1, no voxel is a finding.  With healthy scans, all of which
serve calibration, it is calibrated as a trained model is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mendscan.cohort.decision import Decision
from mendscan.cohort.fingerprint import Fingerprint, fingerprint
from mendscan.cohort.preparing import evenly_spaced, prepare
from mendscan.cohort.store import Split, measure_cohort
from mendscan.config import PRESETS, Settings, override
from mendscan.detection.calibration import Calibration, CodeThresholds
from mendscan.detection.devices import choose_device
from mendscan.detection.networks import Networks
from mendscan.detection.saved_model import save_model
from mendscan.detection.voxel_calibration import VoxelCalibration
from mendscan.errors import CohortError, SettingsError
from mendscan.models.original import prior_from_original, published_variant, vqvae_from_original
from mendscan.models.vqvae import VQVAE
from mendscan.progress import Progress, Silent
from mendscan.training.calibrating import calibrate
from mendscan.training.gating import learn_gate
from mendscan.training.imported_card import imported_card
from mendscan.training.original_checkpoint import OriginalCheckpoint, read_pair
from mendscan.training.workplace import new_model_folder
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume

__all__ = ["ORIGINAL_THRESHOLDS", "ImportSummary", "import_original"]

ORIGINAL_THRESHOLDS = CodeThresholds(score=7.0, restoration=5.0)
"""λ_s and λ_p in nats, as the original sets them by hand (its ``pred.py``; the paper, sections 2.2 and 2.3)."""
_NO_FINDINGS = VoxelCalibration(threshold=1.0)
"""The original's map goes to 1 and has no threshold: where none was learnt, no voxel exceeds it."""
_COMPARED_SCANS, _COMPARED_SLICES = 3, 8
_OWN_STEM = "mean absolute error of healthy slices, encoded and decoded"
_OTHER_STEM = "the same as if the first convolution were padded the other way"


@dataclass(frozen=True)
class ImportSummary:
    """What the import made.

    Attributes:
        model: The model folder.
        settings: The model's.
        files: Network, file name and SHA-256 of each checkpoint.
        parameters: Weights of each network.
        thresholds: λ_s and λ_p.
        calibration_scans: Healthy scans that it was calibrated on; 0 = not calibrated.
        figures: Measured on them, by name; empty without.
    """

    model: Path
    settings: Settings
    files: tuple[dict[str, str], ...]
    parameters: dict[str, int]
    thresholds: CodeThresholds
    calibration_scans: int
    figures: dict[str, float]


def import_original(
    prior: str | Path,
    model: str | Path,
    *,
    vqvae: str | Path | None = None,
    preset: str = "brain",
    stem_padding: bool = False,
    healthy: str | Path | None = None,
    assignments: Sequence[str] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> ImportSummary:
    """Make a model folder of two checkpoints of the original system.

    Args:
        prior: The prior's checkpoint (``brain_la.pt``, ``abdom_la.pt``); the VQ-VAE may be inside.
        model: The model folder to write.
        vqvae: The VQ-VAE's checkpoint (``brain_feats.pt``, ``abdom_feats.pt``); None takes the one inside the prior's.
        preset: ``brain`` or ``abdomen``: which of the original's two experiments.
        stem_padding: Whether the first convolution of the VQ-VAE was trained with padding.  No tensor tells; all
            published code has none.
        healthy: Healthy scans that the networks have not seen; all serve calibration.  None leaves it out.
        assignments: Further settings as ``section.key=value``, for networks of other widths or other preparation.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``, for calibration.
        progress: Told how far the work is.

    Raises:
        ModelError: If a checkpoint cannot be used, or `model` holds a model.
        SettingsError: If settings contradict each other or the import.
        CohortError: If `healthy` holds no usable scan.
        WriteError: If another run is at work in `model` (E_LOCKED), or it cannot be written.
    """
    progress, folder, on = progress or Silent(), Path(model), choose_device(device)
    with new_model_folder(folder, "import"):
        scans = None if healthy is None else find_scans(healthy)
        checkpoints, parts = read_pair(Path(prior), None if vqvae is None else Path(vqvae), progress)
        settings = _settings(
            preset, stem_padding, published_variant(parts["prior"]), assignments, calibrated=bool(scans)
        )
        networks = _networks(parts, settings, checkpoints, on)
        cohort, split, calibration, figures = _calibrated(networks, scans, progress)
        summary = ImportSummary(
            folder,
            settings,
            tuple(
                {"network": part if len(checkpoints) > 1 else "vqvae, prior", "name": c.name, "sha256": c.sha256}
                for part, c in checkpoints.items()
            ),
            {name: sum(p.numel() for p in getattr(networks, name).parameters()) for name in ("vqvae", "prior")},
            calibration.thresholds,
            len(split.calibration),
            figures,
        )
        _save(summary, networks, calibration, split, cohort)
    return summary


def _settings(
    preset: str, stem_padding: bool, variant: Sequence[str], assignments: Sequence[str], *, calibrated: bool
) -> Settings:
    if preset not in PRESETS:
        raise SettingsError("unknown preset", where=f"--preset {preset}", expected=" or ".join(PRESETS))
    published = [f"vqvae.stem_padding={str(stem_padding).lower()}", *variant]
    settings = override(PRESETS[preset], [*published, *assignments])
    for wrong, setting, reason in (
        (settings.vqvae.norm != "batch", "vqvae.norm", "the original normalises by batch"),
        (settings.has_discriminator, "training.discriminator_share", "the original has no discriminator"),
        (settings.preparation.planes > 1, "preparation.planes", "the original has one plane"),
        (settings.prior.context_slices > 0, "prior.context_slices", "the original's prior sees no other slice"),
        (settings.detection.scan_score != "paper", "detection.scan_score", "it needs the training scans"),
        (
            settings.detection.voxel_map != "residual" and not calibrated,
            "detection.voxel_map",
            "it needs healthy scans: give --healthy",
        ),
    ):
        if wrong:
            raise SettingsError("an imported model cannot have this", where=f"--set {setting}", remedy=reason)
    return settings


def _networks(
    parts: dict[str, dict[str, torch.Tensor]],
    settings: Settings,
    checkpoints: dict[str, OriginalCheckpoint],
    device: torch.device,
) -> Networks:
    where = {name: checkpoint.name for name, checkpoint in checkpoints.items()}
    vqvae = vqvae_from_original(parts["vqvae"], settings.vqvae, where=where.get("vqvae", where["prior"]))
    prior = prior_from_original(
        parts["prior"],
        settings.prior,
        codes=settings.vqvae.codes,
        latent_shape=settings.latent_shape,
        where=where["prior"],
    )
    return Networks(vqvae.to(device), prior.to(device), settings)


def _calibrated(
    networks: Networks, scans: Sequence[Path] | None, progress: Progress
) -> tuple[Fingerprint | None, Split, Calibration, dict[str, float]]:
    if scans is None:
        return None, Split((), (), ()), Calibration(ORIGINAL_THRESHOLDS, (), _NO_FINDINGS), {}
    usable, facts = measure_cohort(scans, progress)
    fewest = 1 if networks.settings.detection.voxel_map == "residual" else 2
    if len(usable) < fewest:
        found = f"{len(usable)} usable scans"
        raise CohortError("too few healthy scans", code="E_TOO_FEW_SCANS", found=found, expected=f"at least {fewest}")
    figures = _reconstruction(networks, usable[:_COMPARED_SCANS])
    if figures.get(_OTHER_STEM, math.inf) < figures[_OWN_STEM]:
        other = "--no-stem-padding" if networks.settings.vqvae.stem_padding else "--stem-padding"
        progress.say(f"healthy scans are reconstructed better with {other}: is that how the VQ-VAE was trained?")
    calibration = calibrate(networks, usable, None, progress, gate=learn_gate(usable, facts, progress))
    split = Split((), (), tuple(sorted(fact.content_hash for fact in facts)))
    return fingerprint(facts), split, calibration, figures


@torch.inference_mode()
def _reconstruction(networks: Networks, scans: Sequence[Path]) -> dict[str, float]:
    """Return the mean absolute error of plain reconstructions, and the same with the other stem, where that fits."""
    settings = networks.settings
    other = settings.vqvae.model_copy(update={"stem_padding": not settings.vqvae.stem_padding})
    stems: dict[str, VQVAE] = {_OWN_STEM: networks.vqvae}
    if tuple(other.encoded(pixels) for pixels in settings.slice_shape) == settings.latent_shape:
        stems[_OTHER_STEM] = VQVAE(other).eval().to(networks.device)
        stems[_OTHER_STEM].load_state_dict(networks.vqvae.state_dict())
    errors: dict[str, list[float]] = {name: [] for name in stems}
    for path in scans:
        prepared = prepare(read_volume(path), settings.preparation)
        at = evenly_spaced(len(prepared.slices_SHW), _COMPARED_SLICES)
        slices, position = (
            torch.from_numpy(a[at]).to(networks.device) for a in (prepared.slices_SHW, prepared.positions_S)
        )
        for name, vqvae in stems.items():
            redrawn = vqvae.decode_codes(vqvae.codes(slices, position), position)
            errors[name].append(float((redrawn - slices).abs().mean()))
    return {name: sum(values) / len(values) for name, values in errors.items()}


def _save(
    summary: ImportSummary, networks: Networks, calibration: Calibration, split: Split, cohort: Fingerprint | None
) -> None:
    imported: dict[str, Any] = {
        "from": "snavalm/lsr_mood_challenge_2020",
        "files": list(summary.files),
        "calibrated": bool(summary.calibration_scans),
        "figures": summary.figures,
    }
    plan = {
        "fingerprint": None if cohort is None else asdict(cohort),
        "decisions": [asdict(decision) for decision in _decisions(summary)],
        "settings": summary.settings.model_dump(mode="json"),
        "imported": imported,
    }
    save_model(
        summary.model,
        networks,
        calibration,
        plan=plan,
        split={**split.to_json(), "imported": imported},
        card=imported_card(_decisions(summary), summary.files, summary.calibration_scans, summary.figures),
    )


def _decisions(summary: ImportSummary) -> tuple[Decision, ...]:
    settings, thresholds = summary.settings, summary.thresholds
    learnt = f"learnt from {summary.calibration_scans} healthy scans"
    by_hand = "set by hand in the original; not calibrated"
    why = learnt if summary.calibration_scans else by_hand
    return (
        Decision("all settings", settings.preset, "as Naval Marimont & Tarroni (2021), whose weights these are"),
        Decision(
            "vqvae.stem_padding",
            str(settings.vqvae.stem_padding).lower(),
            "as the import was told; no tensor tells, and all code that the original published has no padding",
        ),
        Decision("prior.first_kernel", str(settings.prior.first_kernel), "read off the prior's first tensor"),
        Decision(
            "prior.attention_downsampling",
            str(settings.prior.attention_downsampling),
            "read off the prior's up-sampling",
        ),
        Decision("λ_s", f"{thresholds.score:g} nats", why),
        Decision("λ_p", f"{thresholds.restoration:g} nats", why),
    )
