"""The plan of a training: made from the scans, or that of the stopped training that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mendscan.cohort.decision import Decision
from mendscan.cohort.fingerprint import ScanFacts, fingerprint
from mendscan.cohort.plan import Plan
from mendscan.cohort.plan_context import with_context
from mendscan.cohort.planning import plan_auto, plan_preset
from mendscan.config import override, parse_settings
from mendscan.detection.devices import bfloat16_is_fast
from mendscan.errors import CohortError, SettingsError
from mendscan.training.workplace import read_plan

__all__ = ["new_plan", "resumed_plan"]


def new_plan(
    preset: str, facts: Sequence[ScanFacts], *, seed: int, assignments: Sequence[str], device: torch.device
) -> Plan:
    """Return the plan for a measured cohort, with the user's own settings."""
    cohort = fingerprint(facts)
    if preset == "auto":
        fast = bfloat16_is_fast(device)
        return with_context(plan_auto(cohort, seed=seed, bfloat16_is_fast=fast, assignments=assignments))
    return plan_preset(preset, cohort, seed=seed).asked(assignments)


def resumed_plan(work: Path, facts: Sequence[ScanFacts], assignments: Sequence[str], *, preset: str, seed: int) -> Plan:
    """Return the plan that a stopped training goes on with.

    Args:
        work: The work folder of the stopped training.
        facts: The scans, as measured now.
        assignments: Settings asked for now.
        preset: The preset asked for now; ``auto``, which nobody need write, is that of the stopped training.
        seed: The seed asked for now; 0 likewise.

    Raises:
        CohortError: If these are other scans (E_RESUME_COHORT).
        SettingsError: If these are other settings (E_RESUME_SETTINGS).
        ModelError: If the plan is damaged (E_RESUME).
    """
    saved = read_plan(work)
    now = sorted(fact.content_hash for fact in facts)
    if now != saved["hashes"]:
        different = len(set(now) ^ set(saved["hashes"]))
        raise CohortError(
            "these are not the scans that the training began with",
            where=work.parent,
            code="E_RESUME_COHORT",
            found=f"{different} scans differ",
            remedy="give the same scans, or train anew in another folder",
        )
    settings = parse_settings(saved["settings"], where=work / "plan.json")
    same = preset in ("auto", settings.preset) and seed in (0, settings.seed)
    if override(settings, assignments) != settings or not same:
        raise SettingsError(
            "a resumed training keeps its settings",
            where="--resume",
            code="E_RESUME_SETTINGS",
            remedy="give --preset, --seed, --steps, --epochs and --set as they were, or leave them out",
        )
    return Plan(fingerprint(facts), tuple(Decision(**d) for d in saved["decisions"]), settings)
