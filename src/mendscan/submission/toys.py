"""Where are the toy cases and their labels?

=====================================================  ==========================================
scans                                                  labels, each with ``pixel/`` and ``sample/``
=====================================================  ==========================================
``TOY/brain/toy``, ``TOY/abdom/toy`` (the challenge)   ``TOY/brain/toy_label``, ``TOY/abdom/toy_label``
``TOY/brain/toy/scans``, ``TOY/brain/scans``           ``labels`` beside ``scans``
=====================================================  ==========================================

The abdomen's folder may also be called ``abdomen`` or ``colon``.  A submission for one anatomy may have its toy cases
without that folder: ``TOY/toy``, ``TOY/toy/scans`` or ``TOY/scans``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mendscan.errors import ResultsError
from mendscan.submission.challenge import Anatomy, Mode

__all__ = ["Toy", "find_toy"]

_FOLDERS: dict[Anatomy, tuple[str, ...]] = {"brain": ("brain",), "abdom": ("abdom", "abdomen", "colon")}
_LAYOUTS = (("toy/scans", "toy/labels"), ("scans", "labels"), ("toy", "toy_label"))


@dataclass(frozen=True)
class Toy:
    """The toy cases of one anatomy.

    Attributes:
        scans: Folder of scans.
        labels: Folder of labels; may be missing.
    """

    scans: Path
    labels: Path

    def labels_of(self, mode: Mode) -> Path | None:
        """Return the folder of labels of a task; None if there is none."""
        folder = self.labels / mode
        return folder if folder.is_dir() else None


def find_toy(root: Path, anatomy: Anatomy, *, only_one: bool) -> Toy:
    """Find the toy cases of an anatomy.

    Args:
        root: The folder of all toy cases.
        anatomy: Whose.
        only_one: Whether the submission is for no other anatomy, so that `root` itself may hold the cases.

    Raises:
        ResultsError: If there are none.
    """
    for base in _bases(root, anatomy, only_one=only_one):
        for scans, labels in _LAYOUTS:
            if (base / scans).is_dir():
                return Toy(base / scans, base / labels)
    raise ResultsError(
        f"no toy cases for {anatomy}",
        where=root,
        expected=f"{anatomy}/toy/NAME.nii.gz and {anatomy}/toy_label/pixel, sample",
        remedy="give the folder that holds the challenge's toy cases of every anatomy",
    )


def _bases(root: Path, anatomy: Anatomy, *, only_one: bool) -> Iterator[Path]:
    yield from (root / name for name in _FOLDERS[anatomy])
    if only_one:
        yield root
