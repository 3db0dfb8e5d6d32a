"""From a time or a number of steps to the plan's steps and planes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cohort.test_planning import CROP, plan_of
from mendscan.cohort.plan_planes import TWO_PLANES_FROM, with_two_planes
from mendscan.config import Settings, override
from mendscan.progress import Silent
from mendscan.training import budget as budget_module
from mendscan.training import timing
from mendscan.training.budget import with_budget
from mendscan.training.building import new_networks, stage_steps
from mendscan.training.checkpoint import state_digest
from mendscan.training.request import Budget
from mendscan.training.side_by_side import Crew
from mendscan.training.stages import SliceData
from mendscan.training.timing import _Cost

CPU = torch.device("cpu")
SLICES = SliceData(np.zeros((1, 36, 36, 52), np.float16), (0,), tuple(range(36)), plan_of(**CROP).settings, CPU)
"""They are looked at only where steps are timed."""


def planned(steps: int | None = None, minutes: float | None = None) -> Settings:
    return with_budget(plan_of(**CROP), SLICES, Budget(minutes, steps, None), Silent()).settings


def test_enough_steps_are_shared_out_to_two_planes() -> None:
    assert planned(TWO_PLANES_FROM).preparation.planes == 2
    assert planned(TWO_PLANES_FROM - 1).preparation.planes == 1


@pytest.mark.parametrize("one", [3_000, TWO_PLANES_FROM + 200, 20_000])
def test_the_steps_of_a_time_repeat_its_plan(monkeypatch: pytest.MonkeyPatch, one: int) -> None:
    """A plan of one plane fits more steps into the same time; so many, asked for, must not make it two."""
    monkeypatch.setattr(
        budget_module, "_timed_steps", lambda settings, *_: one if settings.preparation.planes == 1 else int(0.95 * one)
    )
    timed = planned(minutes=30)
    assert planned(steps=timed.training.steps) == timed
    assert timed.preparation.planes == (2 if one == 20_000 else 1)


def test_the_plan_says_how_many_steps_each_plane_gets() -> None:
    plan = with_budget(plan_of(**CROP), SLICES, Budget(None, 10_000, None), Silent())
    (reason,) = (each.reason for each in plan.decisions if each.setting == "training.steps")
    steps = stage_steps(plan.settings)
    assert f"{steps.vqvae} for each VQ-VAE" in reason
    assert 2 * (steps.vqvae + steps.prior) + steps.discriminator == pytest.approx(10_000, abs=2)


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_the_time_is_that_of_the_cores_or_of_the_longest_training(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(Crew, "for_networks", lambda networks, _: Crew(min(at_once, networks), 1))
    monkeypatch.setattr(timing, "_OVERHEAD", 1.0)
    plan = with_two_planes(plan_of(**CROP))
    assert plan is not None
    settings = override(plan.settings, ["discriminator.members=2"])
    cost = _Cost(encoding=50.0, vqvae=0.4, prior=0.4, discriminator=0.3)
    steps = stage_steps(override(settings, ["training.steps=10000"]))
    chain = 50 + 0.4 * (steps.vqvae + steps.prior)
    member = 0.3 * steps.discriminator / 2
    expected = {1: 2 * chain + 2 * member, 2: chain + member, 4: max(chain, member)}[at_once]
    assert cost.of_all(10_000, settings, CPU) == pytest.approx(expected)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_steps_are_timed_while_others_take_steps(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    at_work: set[str] = set()

    def loss_of(network: torch.nn.Module, *_: object) -> Callable[[int], dict[str, torch.Tensor]]:
        def loss_of_step(_: int) -> dict[str, torch.Tensor]:
            at_work.add(threading.current_thread().name)
            return {"loss": sum((p.square().sum() for p in network.parameters()), torch.zeros(()))}

        return loss_of_step

    monkeypatch.setattr(timing, "vqvae_loss", loss_of)
    vqvae, _ = new_networks(SLICES.settings, CPU)
    before = state_digest(vqvae)
    with timing._busy(others, vqvae, SLICES):
        deadline = time.monotonic() + 20
        while len(at_work) < others and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(at_work) == others
    assert not [thread for thread in threading.enumerate() if thread.name in at_work]
    assert state_digest(vqvae) == before


def test_others_that_fail_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss_of(*_: object) -> Callable[[int], dict[str, torch.Tensor]]:
        raise MemoryError("not enough for two")

    monkeypatch.setattr(timing, "vqvae_loss", loss_of)
    vqvae, _ = new_networks(SLICES.settings, CPU)
    with pytest.raises(MemoryError, match="not enough"), timing._busy(1, vqvae, SLICES):
        pass


def test_two_planes_are_timed_as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def steps_for(seconds: float, *networks: object) -> int:
        timed.append(networks[-1].settings.preparation.planes)
        return 20_000

    monkeypatch.setattr(budget_module, "steps_for", steps_for)
    assert planned(minutes=30.0).preparation.planes == 2
    assert timed == [2]


def test_steps_that_are_set_make_the_plan_that_steps_asked_for_make() -> None:
    asked = planned(TWO_PLANES_FROM)
    plan = plan_of(**CROP).asked([f"training.steps={TWO_PLANES_FROM}"])
    assert with_budget(plan, SLICES, Budget(), Silent()).settings == asked
