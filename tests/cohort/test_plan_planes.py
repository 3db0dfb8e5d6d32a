"""Two planes: where they suit the cohort and the user did not choose otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from cohort.test_planning import CROP, HEAD, cohort, decision, plan_of
from mendscan.cohort.plan_planes import with_two_planes
from mendscan.cohort.planning import plan_preset

THICK = {"shape": (180, 220, 37), "spacing_mm": (1.0, 1.0, 5.0)}


def test_an_even_grid_is_cut_along_two_axes_and_the_plan_says_so() -> None:
    for kind in (HEAD, CROP):
        two = with_two_planes(plan_of(**kind))
        assert two is not None
        assert list(two.settings.further_planes) == ["X"]
        assert two.settings.training.discriminator_share == 0.5
        assert "Z and X" in decision(two, "preparation.planes").reason


def test_what_the_user_has_set_stays() -> None:
    plan = plan_of(**CROP)
    assert with_two_planes(plan.asked(["preparation.planes=1"])) is None
    two = with_two_planes(plan.asked(["training.discriminator_share=0.3"]))
    assert two is not None
    assert two.settings.training.discriminator_share == 0.3
    assert with_two_planes(plan.asked(["preparation.shape_XYZ=36,48,35"])) is None


def test_thick_slices_are_cut_one_way_and_so_are_presets() -> None:
    assert with_two_planes(plan_of(**THICK)) is None
    assert with_two_planes(plan_preset("brain", cohort(**HEAD), seed=0)) is None


def test_where_no_discriminator_is_there_is_none_beside_two_planes() -> None:
    alone = plan_of(**CROP).asked(["detection.evidence=nll", "training.discriminator_share=0"])
    two = with_two_planes(alone)
    assert two is not None
    assert not two.settings.has_discriminator


@pytest.mark.parametrize("kind", [HEAD, CROP], ids=["whole", "region"])
def test_only_thick_slices_may_be_any_number(kind: dict[str, Any]) -> None:
    odd = {**kind, "shape": (*kind["shape"][:2], 37)}
    assert all(side % 4 == 0 for side in plan_of(**odd).settings.preparation.shape_XYZ)
    thick = {**odd, "spacing_mm": (1.0, 1.0, 2.0)}
    assert plan_of(**thick).settings.preparation.shape_XYZ[2] % 4
