"""What is written and what is read are kept apart: a map among the scans would be taken for a scan by the next run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mendscan.errors import SettingsError

__all__ = ["keep_apart"]


def keep_apart(
    read: str | os.PathLike[str], written: str | os.PathLike[str], *, subfolders: Iterable[str] = ()
) -> None:
    """Refuse an output folder among the inputs, or inputs where the output would overwrite them; links are followed.

    Args:
        read: A scan, or a folder of scans at any depth.
        written: The output folder; it need not exist.
        subfolders: Folders in it that files are written to.

    Raises:
        SettingsError: E_OUTPUT_AMONG_INPUTS if the output folder is the input folder or in it;
            E_INPUT_AMONG_OUTPUTS if the inputs lie in one of its `subfolders`; E_ACCESS if a path leads nowhere.
    """
    try:
        source, target = Path(read).resolve(), Path(written).resolve()
        is_folder = source.is_dir()
    except (OSError, RuntimeError) as error:  # a path without permission; links that lead to each other
        found = getattr(error, "strerror", None) or "links that lead to each other"
        raise SettingsError("a path cannot be followed", where=read, code="E_ACCESS", found=found) from None
    if is_folder and target.is_relative_to(source):
        raise SettingsError(
            "the output would lie among the inputs, and be taken for scans by the next run",
            where=written,
            code="E_OUTPUT_AMONG_INPUTS",
            found="the input folder itself" if target == source else "a folder in the input folder",
            remedy="name a folder outside of it",
        )
    if any(source.is_relative_to(target / name) for name in subfolders):
        raise SettingsError(
            "the output would overwrite the inputs",
            where=written,
            code="E_INPUT_AMONG_OUTPUTS",
            found=f"inputs in its folder {source.relative_to(target).parts[0]}",
            remedy="name another folder",
        )
