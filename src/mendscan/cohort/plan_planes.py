"""Whether a plan cuts scans into slices along a second axis: it pays where there are enough steps for both."""

from __future__ import annotations

from mendscan.cohort.decision import Decision
from mendscan.cohort.plan import Plan
from mendscan.cohort.plan_detection import ANISOTROPIC
from mendscan.config import override
from mendscan.errors import SettingsError

__all__ = ["TWO_PLANES_FROM", "with_two_planes"]

TWO_PLANES_FROM = 5_000
"""From so many steps on slices are cut along a second axis, too.

On hippocampus MRI two planes of 1 000 steps each found more than one of 2 000; of 5 000 steps each has 1 250.
"""
_SHARE_BESIDE_TWO_PLANES = 0.5
"""`discriminator_share` where two planes need steps."""


def with_two_planes(plan: Plan) -> Plan | None:
    """Return the plan with networks for slices along a second axis; None where it cannot or should not have them.

    The user has chosen otherwise; voxels are much longer along one axis; or the grid does not suit the networks.
    """
    settings, by_user = plan.settings, plan.set_by_user
    spacing = plan.fingerprint.spacing_median_mm
    if settings.preset != "auto" or "preparation.planes" in by_user or max(spacing) >= ANISOTROPIC * min(spacing):
        return None
    if any(side % settings.vqvae.downsampling for side in settings.preparation.shape_XYZ):
        return None
    asked = ["preparation.planes=2"]
    if "training.discriminator_share" not in by_user and settings.has_discriminator:
        asked.append(f"training.discriminator_share={_SHARE_BESIDE_TWO_PLANES:g}")
    try:
        two = override(settings, asked)
    except SettingsError:  # such as slices as on a screen, which have one axis
        return None
    why = f"slices along {settings.slice_axis} and {next(iter(two.further_planes))}: from {TWO_PLANES_FROM:,} steps on"
    return plan.decided(Decision("preparation.planes", "2", why), settings=two)
