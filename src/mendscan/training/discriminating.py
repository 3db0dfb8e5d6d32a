"""The third optimisation, which the paper does not have: the discriminator, on self-made faults in healthy scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mendscan.cohort.corruptions import Corrupted, corrupt, deformed
from mendscan.cohort.preparing import foreground_threshold
from mendscan.cohort.restyling import restyled
from mendscan.config import Settings
from mendscan.models.discriminator import Discriminator
from mendscan.training.loop import generator_for

__all__ = ["ScanData", "discriminator_loss", "validate_discriminator"]

_FAULT_WEIGHT = 2.0
"""A faulty voxel counts this much more than a healthy one, of which there are some twenty times as many."""
_CROSS_ENTROPY, _DICE = 2.0, 0.3
"""Weights of the two losses."""
_DICE_SMOOTHING = 50.0
"""Voxels added to both sides of the overlap, so that a scan without faults has one."""
_NOISY = 0.5
"""Part of the scans to which noise is added."""
_VALIDATION_SCANS = 24


@dataclass(frozen=True, eq=False)
class ScanData:
    """Whole scans of one part of the split, read from the store as they are needed.

    Attributes:
        slices_NSHW: The store.
        scans: Rows of the store.
        settings: The model's settings.
        device: Where batches go.
    """

    slices_NSHW: np.ndarray
    scans: tuple[int, ...]
    settings: Settings
    device: torch.device

    def scan(self, index: int) -> Float[Tensor, "S H W"]:
        """Return one scan, on the CPU."""
        return torch.from_numpy(self.slices_NSHW[self.scans[index]].astype(np.float32))

    def __iter__(self) -> Iterator[Float[Tensor, "S H W"]]:
        return (self.scan(index) for index in range(len(self.scans)))

    def corrupted(self, index: int, usual_SHW: Float[Tensor, "S H W"], *, generator: Generator) -> Corrupted:
        """Return one scan with faults in it; some are deformed and mirrored first, as other subjects are."""
        settings, donor = self.settings, int(torch.randint(len(self.scans), (), generator=generator))
        scan_SHW = self.scan(index)
        if torch.rand((), generator=generator) < settings.discriminator.deformed:
            scan_SHW = deformed(scan_SHW, generator=generator)
        if settings.augmentation.flip and torch.rand((), generator=generator) < 0.5:
            scan_SHW = scan_SHW.flip(settings.preparation.axes_SHW.index("X"))
        below = settings.preparation.background_below
        inside = torch.ones_like(scan_SHW, dtype=torch.bool)
        if settings.preparation.intensity == "foreground":
            inside = scan_SHW != 0  # background is 0 there, and tissue lies around it
        elif below:
            inside = scan_SHW > foreground_threshold(scan_SHW.numpy(), below)
        return corrupt(
            scan_SHW, donor_SHW=self.scan(donor), usual_SHW=usual_SHW, foreground_SHW=inside,
            aspect=settings.detection.voxel_aspect_SHW, generator=generator,
        )  # fmt: skip


def discriminator_loss(
    discriminator: Discriminator, data: ScanData, *, member: int = 0
) -> Callable[[int], dict[str, Tensor]]:
    """Return the loss of one step: cross-entropy of the voxels, and one minus the overlap (soft Dice) of each scan.

    Args:
        discriminator: What is trained; it knows already what is usual.
        data: Scans into which faults are put.
        member: Which of its members is trained, on faults of its own.
    """
    settings = data.settings

    def loss_of_step(step: int) -> dict[str, Tensor]:
        generator = generator_for(settings.seed, "discriminator", member, step)
        chosen = torch.randint(len(data.scans), (settings.discriminator.batch_scans,), generator=generator)
        usual_SHW = discriminator.usual_CSHW[0].cpu()
        faulty = [data.corrupted(index, usual_SHW, generator=generator) for index in chosen.tolist()]
        scans = torch.stack([_recoloured(each.scan_SHW, settings, generator) for each in faulty]).to(data.device)
        label = torch.stack([each.label_SHW for each in faulty]).to(scans)
        weight = torch.stack([each.weight_SHW for each in faulty]).to(scans)
        lower = settings.training.precision == "bfloat16"
        with torch.autocast(data.device.type, torch.bfloat16, enabled=lower):
            logits = discriminator(scans, member=member)
        logits = logits.float()
        cross_entropy = binary_cross_entropy_with_logits(
            logits, label, weight, pos_weight=torch.tensor(_FAULT_WEIGHT, device=data.device)
        )
        overlap = _soft_dice(logits.sigmoid(), label).mean()
        return {"loss": _CROSS_ENTROPY * cross_entropy + _DICE * (1 - overlap), "overlap": overlap}

    return loss_of_step


@torch.inference_mode()
def validate_discriminator(
    discriminator: Discriminator, data: ScanData, *, member: int | None = None
) -> dict[str, float]:
    """Return how well faults in held-out healthy scans are found: the average precision of their voxels.

    The faults are of the families it was trained with: the figure says how training goes, not how well lesions are
    found.

    Args:
        discriminator: It has no layer that works otherwise in training.
        data: The scans.
        member: Of which of its members; None = of all together.
    """
    from sklearn.metrics import average_precision_score

    labels, logits = [], []
    usual_SHW = discriminator.usual_CSHW[0].cpu()
    for index in range(min(len(data.scans), _VALIDATION_SCANS)):
        generator = generator_for(data.settings.seed, "validate discriminator", index)
        faulty = data.corrupted(index, usual_SHW, generator=generator)
        labels.append(faulty.label_SHW.flatten())
        logits.append(discriminator(faulty.scan_SHW[None].to(data.device), member=member).cpu().flatten())
    label = torch.cat(labels).numpy()
    # A cohort so small that chance put no fault into it has nothing to find.
    return {"holdout_fault_ap": float(average_precision_score(label, torch.cat(logits).numpy()))} if label.any() else {}


def _recoloured(scan_SHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Change contrast and brightness a little, add noise to some, and restyle them."""
    augmentation = settings.augmentation
    gain, shift, noise = (2 * torch.rand(3, generator=generator) - 1).tolist()
    changed = scan_SHW * (1 + augmentation.contrast * gain) + augmentation.brightness * shift
    if torch.rand((), generator=generator) < _NOISY:
        changed = changed + augmentation.noise * abs(noise) * torch.randn(changed.shape, generator=generator)
    if torch.rand((), generator=generator) < settings.discriminator.restyled:
        changed = restyled(changed, generator=generator)
    return changed.masked_fill(scan_SHW == 0, 0.0) if augmentation.keep_zero else changed


def _soft_dice(probability_BSHW: Tensor, label_BSHW: Tensor) -> Float[Tensor, " B"]:
    both = (probability_BSHW * label_BSHW).flatten(1).sum(1)
    either = (probability_BSHW + label_BSHW).flatten(1).sum(1)
    return (2 * both + _DICE_SMOOTHING) / (either + _DICE_SMOOTHING)
