"""A plan: the settings of a model, and why they are what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mendscan.cohort.decision import SET_BY_USER, Decision
from mendscan.cohort.fingerprint import Fingerprint
from mendscan.config import Settings, assigned, override

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The settings of a model and why they are what they are."""

    fingerprint: Fingerprint
    decisions: tuple[Decision, ...]
    settings: Settings

    @property
    def set_by_user(self) -> frozenset[str]:
        """The settings that the user has chosen, as ``section.key``."""
        return frozenset(decision.setting for decision in self.decisions if decision.reason == SET_BY_USER)

    def decided(self, *decisions: Decision, settings: Settings) -> Plan:
        """Return the plan with further decisions, which take the place of those on the same settings."""
        again = {decision.setting for decision in decisions}
        kept = (decision for decision in self.decisions if decision.setting not in again)
        return Plan(self.fingerprint, (*kept, *decisions), settings)

    def asked(self, assignments: Sequence[str]) -> Plan:
        """Return the plan with the user's own settings, ``section.key=value``.

        What was decided of a whole section goes when one of its settings is chosen: it would no longer be true.
        """
        chosen = [Decision(key, value, SET_BY_USER) for key, value in assigned(assignments).items()]
        sections = {decision.setting.partition(".")[0] for decision in chosen}
        kept = tuple(decision for decision in self.decisions if decision.setting not in sections)
        return replace(self, decisions=kept).decided(*chosen, settings=override(self.settings, assignments))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "fingerprint": asdict(self.fingerprint),
            "decisions": [asdict(decision) for decision in self.decisions],
            "settings": self.settings.model_dump(mode="json"),
        }
