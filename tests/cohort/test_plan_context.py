"""Slices a gap away: on the grid that is used, and only where the prior can have them."""

from __future__ import annotations

import pytest

from cohort.test_planning import CROP, HEAD, cohort, decision, plan_of
from mendscan.cohort.plan_context import with_context
from mendscan.cohort.planning import plan_preset


def test_the_gap_is_a_share_of_the_slices_and_the_plan_says_so() -> None:
    for kind in (HEAD, CROP):
        plan = with_context(plan_of(**kind))
        gap = plan.settings.prior.context_slices
        assert gap == pytest.approx(0.14 * plan.settings.preparation.shape_XYZ[2], abs=0.5)
        assert decision(plan, "prior.context_slices").value == str(gap)


def test_it_goes_by_the_axis_and_the_grid_that_the_user_has_set() -> None:
    plan = plan_of(**CROP).asked(["preparation.shape_XYZ=20,100,12", "preparation.slice_axis=Y"])
    assert with_context(plan).settings.prior.context_slices == 14
    few = plan_of(**CROP).asked(["preparation.shape_XYZ=20,24,2"])
    assert with_context(few).settings.prior.context_slices == 1


@pytest.mark.parametrize(
    "chosen",
    ["prior.context_slices=0", "prior.context_slices=3", "preparation.scored_slices=40", "training.prior_views=none"],
)
def test_it_gives_way_to_what_the_user_has_set(chosen: str) -> None:
    plan = plan_of(**CROP).asked([chosen])
    assert with_context(plan) is plan


def test_presets_have_none() -> None:
    paper = plan_preset("brain", cohort(**HEAD), seed=0)
    assert with_context(paper) is paper
