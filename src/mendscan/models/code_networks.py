"""The two networks of one slice axis: an auto-encoder and the prior over its codes."""

from __future__ import annotations

from torch import nn

from mendscan.config import Settings
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE

__all__ = ["CodeNetworks"]


class CodeNetworks(nn.Module):
    """A VQ-VAE and the prior over its codes: a prior knows the codes of its own VQ-VAE only.

    Args:
        vqvae: The auto-encoder.
        prior: The prior.
    """

    def __init__(self, vqvae: VQVAE, prior: PixelSNAIL) -> None:
        super().__init__()
        self.vqvae = vqvae
        self.prior = prior

    @classmethod
    def untrained(cls, settings: Settings) -> CodeNetworks:
        """Return the networks before training, with weights of the current random state."""
        return cls(VQVAE(settings.vqvae), PixelSNAIL(settings.prior, codes=settings.vqvae.codes))
