"""What is printed of models from others; nothing that they wrote reaches the terminal as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from mendscan.console_progress import console
from mendscan.detection.verifying import Verification
from mendscan.errors import MendscanError
from mendscan.texts import printable

__all__ = ["show_refusal", "show_signed", "show_verification"]

_INTEGRITY = "SHA-256 shows that nothing was altered since the manifest was written, not who wrote it"


def show_verification(found: Verification, model: Path, *, as_json: bool) -> None:
    """Print what a verified model is."""
    if as_json:
        _print_json({"model": str(model), "ok": True, **found.to_json()})
        return
    table = Table(title=f"{escape(printable(str(model)))}: every check passed", title_justify="left", show_header=False)
    for name, value in _rows(found).items():
        table.add_row(name, escape(printable(value)))
    console.print(table)
    console.print(printable(found.card), markup=False, soft_wrap=True)
    console.print("\nResearch use only; not a medical device.")


def show_refusal(error: MendscanError, model: Path) -> None:
    """Print, as JSON, why a model is refused."""
    found = None if error.found is None else str(error.found)
    told = {"code": error.code, "problem": error.problem, "where": error.where, "found": found, "remedy": error.remedy}
    _print_json({"model": str(model), "ok": False, "error": told})


def _print_json(values: dict[str, Any]) -> None:
    console.print(json.dumps(values, indent=2, sort_keys=True), markup=False, soft_wrap=True)


def _rows(found: Verification) -> dict[str, str]:
    bound = "" if found.bound else " (format 1 does not say which parts belong together)"
    return {
        "model": found.model_hash,
        "format": f"{found.format}{bound}",
        "settings": f"{found.preset}, grid {'×'.join(map(str, found.grid_XYZ))} voxels",
        **{part: _part(found, part) for part in found.parts},
        "size": f"{found.bytes / 1e6:.2f} MB",
        "scans": ", ".join(f"{count} {name}" for name, count in found.scans.items()) or "not said",
        "calibrated on": f"{found.calibration_scans} scans",
        "signature": _signature(found),
    }


def _part(found: Verification, part: str) -> str:
    count = found.parameters.get(part)
    return f"SHA-256 {found.parts[part][:16]}…" + (f", {count:,} numbers" if count else "")


def _signature(found: Verification) -> str:
    if found.signed_by is None:
        return f"unsigned: {_INTEGRITY}"
    if found.trusted:
        return f"valid, by the trusted key {found.signed_by}"
    return f"valid, by the key {found.signed_by}; whose that is, only --trusted can tell"


def show_signed(signature: Path, key: Path, *, made: bool) -> None:
    """Print what was signed, and what to give to others."""
    public = key.with_name(f"{key.name}.pub")
    if made:
        console.print(
            f"key pair: {printable(str(key))} (private: keep it; it is not encrypted), {printable(str(public))}",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"signed: {printable(str(signature))}", markup=False, soft_wrap=True)
    console.print(
        "give the public key to others by another way than the model; they check with mendscan verify --trusted",
        soft_wrap=True,
    )
