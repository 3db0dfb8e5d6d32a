"""Whether a plan's prior sees slices a gap away, and how far; decided on the grid as the user may have changed it."""

from __future__ import annotations

from mendscan.cohort.decision import Decision
from mendscan.cohort.plan import Plan
from mendscan.config import override

__all__ = ["with_context"]

CONTEXT_SHARE = 0.14
"""Of the slices, from one to those whose codes the prior sees as well: on hippocampus MRI 5 of 36.

docs/evidence.md has what others were worth.
"""


def with_context(plan: Plan) -> Plan:
    """Return the plan with a prior that sees slices a gap away; as it is where it cannot or should not have them.

    The user has chosen otherwise; not every slice is scored; or codes are not known before the prior is trained.
    """
    settings = plan.settings
    possible = settings.preparation.scored_slices is None and settings.training.prior_views is not None
    if settings.preset != "auto" or "prior.context_slices" in plan.set_by_user or not possible:
        return plan
    slices = settings.preparation.shape_XYZ["XYZ".index(settings.slice_axis)]
    gap = str(max(1, round(CONTEXT_SHARE * slices)))
    why = f"{100 * CONTEXT_SHARE:g} % of the slices: beyond a small anomaly, and still alike"
    given = override(settings, [f"prior.context_slices={gap}"])
    return plan.decided(Decision("prior.context_slices", gap, why), settings=given)
