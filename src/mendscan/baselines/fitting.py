"""All six baselines by name, each fitted in one call."""

from __future__ import annotations

from mendscan.baselines.baseline import Baseline
from mendscan.baselines.dae import DaeBaseline, fit_dae
from mendscan.baselines.healthy import HealthyCohort
from mendscan.baselines.intensity import IntensityBaseline, fit_intensity
from mendscan.baselines.positional import AtlasBaseline, PcaBaseline, fit_atlas, fit_pca
from mendscan.baselines.training import Budget
from mendscan.baselines.vae import VaeBaseline, fit_vae
from mendscan.baselines.vqvae import VqvaeBaseline, fit_vqvae
from mendscan.training.run import StageFolder

__all__ = ["BASELINES", "fit_baseline"]

BASELINES: dict[str, type[Baseline]] = {
    each.name: each for each in (IntensityBaseline, AtlasBaseline, PcaBaseline, VaeBaseline, VqvaeBaseline, DaeBaseline)
}
"""From the simplest on; the last three are networks, which take a time budget."""

_AT_ONCE = {"intensity": fit_intensity, "atlas": fit_atlas, "pca": fit_pca}
_TRAINED = {"vae": fit_vae, "vqvae": fit_vqvae, "dae": fit_dae}


def fit_baseline(name: str, cohort: HealthyCohort, budget: Budget, where: StageFolder) -> Baseline:
    """Fit a baseline on the training scans.

    Args:
        name: One of `BASELINES`.
        cohort: The healthy scans.
        budget: How long a network is trained; the others take seconds.
        where: Where a network saves and logs itself; a folder of its own for each baseline.

    Raises:
        ValueError: If there is no such baseline.
        Interrupted: If a stop was requested; called again with the same, it goes on where it was.
        SettingsError: If another training was stopped in the same folder.
    """
    if name in _AT_ONCE:
        return _AT_ONCE[name](cohort)
    if name in _TRAINED:
        return _TRAINED[name](cohort, budget, where)
    raise ValueError(f"found baseline {name!r}; expected one of {', '.join(BASELINES)}")
