"""The model's first network alone: what a plain pass through the codebook fails to reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mendscan.baselines.baseline import Baseline
from mendscan.baselines.healthy import HealthyCohort
from mendscan.baselines.training import Budget, NetworkTraining, reconstruction_residual, train_network
from mendscan.cohort.preparing import Prepared
from mendscan.config import Settings
from mendscan.models.vqvae import VQVAE
from mendscan.shapes import SlicesSHW
from mendscan.training.building import new_networks
from mendscan.training.run import StageFolder
from mendscan.training.stages import validate_vqvae, vqvae_loss

__all__ = ["VqvaeBaseline", "fit_vqvae"]


@dataclass(frozen=True, eq=False)
class VqvaeBaseline(Baseline):
    """Reconstruction error of the plan's VQ-VAE, |x − x̂|: nothing is restored, for there is no prior."""

    name: ClassVar[str] = "vqvae"
    network: VQVAE
    device: torch.device
    steps: int

    def __post_init__(self) -> None:
        self.network.eval().to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return |x − x̂|, in normalised intensity, >= 0."""
        return reconstruction_residual(self._reconstruct, prepared, self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights."""
        return self.network.state_dict()

    @classmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> VqvaeBaseline:
        """Rebuild it."""
        network = VQVAE(settings.vqvae)
        network.load_state_dict(dict(tensors))
        return cls(network, device, int(facts["steps"]))

    def _reconstruct(
        self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"]
    ) -> Float[Tensor, "B H W"]:
        return self.network(slices_BHW, position_B).slices_BHW


def fit_vqvae(cohort: HealthyCohort, budget: Budget, where: StageFolder) -> VqvaeBaseline:
    """Train the plan's VQ-VAE with the whole budget; see `train_network` for budget, resuming and errors.

    Weights and batches begin as those of the model's own first stage.
    """
    settings = cohort.settings
    training, validation = (cohort.slices(part) for part in (cohort.split.train, cohort.split.validation))
    network, steps = train_network(
        NetworkTraining(
            "vqvae",
            new=lambda: new_networks(settings, cohort.device)[0],
            loss=lambda vqvae, steps: vqvae_loss(vqvae, training, steps),
            validate=lambda vqvae, step, steps: validate_vqvae(
                vqvae, validation, quantise=step >= round(settings.codebook.unquantised_fraction * steps)
            ),
        ),
        cohort,
        budget,
        where,
    )
    return VqvaeBaseline(network, cohort.device, steps)
