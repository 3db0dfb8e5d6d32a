"""Every error that mendscan raises on purpose.

The tree::

    MendscanError
    ├── ScanError            a scan cannot be used: the case fails alone, a batch goes on
    │   ├── UnreadableScanError   the file is missing, truncated, corrupt or of another format
    │   ├── GeometryError         the scan's shape, affine or orientation makes no sense
    │   ├── IntensityError        the voxels make no sense (NaN, constant, ...)
    │   └── UnfitScanError        the scan does not look like the training scans, and only such were wanted
    ├── ArchiveError         an archive is damaged, unsafe or not laid out as it should be
    ├── CohortError          the scans together cannot be used (too few, none found, duplicates)
    ├── SettingsError        a setting is unknown, out of range or contradicts another
    ├── ModelError           a model folder is missing, incomplete, altered or of another version
    ├── ResultsError         a results or labels folder does not hold what it should
    ├── WriteError           something could not be written; what was there before is intact
    └── Interrupted          work was stopped on request; it can be resumed

Each carries a stable `code` and prints as one line, ``where: problem (found ..., expected ...); remedy``.
"""

from __future__ import annotations

from mendscan.texts import printable

__all__ = [
    "ArchiveError",
    "CohortError",
    "GeometryError",
    "IntensityError",
    "Interrupted",
    "MendscanError",
    "ModelError",
    "ResultsError",
    "ScanError",
    "SettingsError",
    "UnfitScanError",
    "UnreadableScanError",
    "WriteError",
]


class MendscanError(Exception):
    """The root: what went wrong, where, what was found instead of what, and what to do.

    Args:
        problem: What is wrong, in a few words.
        where: The file, folder or setting concerned.
        code: A stable identifier for programs, such as ``E_TRUNCATED``.
        found: What was found.
        expected: What should have been there.
        remedy: What the user can do about it.

    Example:
        >>> print(MendscanError("too few voxels", where="a.nii", found="3", expected="at least 8", remedy="check it"))
        a.nii: too few voxels (found 3, expected at least 8); check it
    """

    default_code = "E_INTERNAL"

    def __init__(
        self,
        problem: str,
        *,
        where: object = "",
        code: str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str = "",
    ) -> None:
        self.problem = problem
        self.where = str(where)
        self.code = code or self.default_code
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(self._one_line())

    def _one_line(self) -> str:
        details = [f"found {self.found}"] if self.found is not None else []
        details += [f"expected {self.expected}"] if self.expected is not None else []
        line = f"{self.where}: {self.problem}" if self.where else self.problem
        line += f" ({', '.join(details)})" if details else ""
        line += f"; {self.remedy}" if self.remedy else ""
        return printable(" ".join(line.split()))

    def at(self, where: object) -> MendscanError:
        """Return the same error with another `where`, such as a name in place of a whole path."""
        details = {"code": self.code, "found": self.found, "expected": self.expected, "remedy": self.remedy}
        return type(self)(self.problem, where=where, **details)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries; the keyword-only arguments must come along.
        state = {
            "where": self.where,
            "code": self.code,
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
        }
        return _rebuild, (type(self), self.problem, state)


def _rebuild(kind: type[MendscanError], problem: str, state: dict[str, object]) -> MendscanError:
    return kind(problem, **state)  # type: ignore[arg-type]


class ScanError(MendscanError):
    """One scan cannot be used."""

    default_code = "E_SCAN"


class UnreadableScanError(ScanError):
    """The file is missing, truncated, corrupt or of a format that is not read."""

    default_code = "E_UNREADABLE"


class GeometryError(ScanError):
    """The scan's shape, affine or orientation makes no sense."""

    default_code = "E_GEOMETRY"


class IntensityError(ScanError):
    """The scan's voxel values make no sense."""

    default_code = "E_INTENSITY"


class UnfitScanError(ScanError):
    """The scan does not look like the training scans, and only such were wanted."""

    default_code = "E_UNFIT"


class ArchiveError(MendscanError):
    """An archive is damaged, unsafe or not laid out as it should be; nothing of the member at fault was written."""

    default_code = "E_ARCHIVE"


class CohortError(MendscanError):
    """The scans together cannot be used."""

    default_code = "E_COHORT"


class SettingsError(MendscanError):
    """A setting is unknown, out of range or contradicts another."""

    default_code = "E_SETTINGS"


class ModelError(MendscanError):
    """A model folder is missing, incomplete, altered or of another version."""

    default_code = "E_MODEL"


class ResultsError(MendscanError):
    """A results or labels folder does not hold what it should."""

    default_code = "E_RESULTS"


class WriteError(MendscanError):
    """Something could not be written; what was there before is intact."""

    default_code = "E_WRITE"


class Interrupted(MendscanError):
    """Work was stopped on request; it can be resumed."""

    default_code = "E_INTERRUPTED"
