"""How are the scores of a few voxels, or of millions, kept exactly in few bytes?

The challenge (MOOD) ranks scores clipped to [0, 1] and rounded to float16.  The bit patterns of these 15 361 values,
read as integers, are in the order of the values: counts per pattern hold all that ranks can tell.  A lesion of a
hundred voxels has at most a hundred patterns, so only those that occur are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Int64, Num, UInt16

__all__ = ["N_VALUES", "SparseCounts", "bit_patterns", "float32_cut"]

N_VALUES = 0x3C00 + 1
"""float16 values in [0, 1]: the bit patterns from 0x0000 (0.0) to 0x3C00 (1.0)."""
_WITHOUT_SIGN = np.uint16(0x7FFF)
_CHUNK_VOXELS = 1 << 17


@dataclass(frozen=True, eq=False)
class SparseCounts:
    """How many voxels have each score, of the scores that occur.

    Counts of parts of a scan, or of several scans, add up to those of the whole, in any order and on any machine.

    Args:
        patterns: float16 bit patterns of the scores that occur, ascending as the scores do.
        counts: Voxels with each, > 0.

    Example:
        >>> counts = SparseCounts.of(np.array([0.5, 0.0, 0.5, 7.0]))
        >>> counts.values, counts.counts
        (array([0. , 0.5, 1. ], dtype=float16), array([1, 2, 1]))
        >>> (counts + counts).n_voxels
        8
    """

    patterns: UInt16[np.ndarray, " P"]
    counts: Int64[np.ndarray, " P"]

    @classmethod
    def empty(cls) -> SparseCounts:
        """No voxel: the neutral element of `+`."""
        return cls(np.zeros(0, np.uint16), np.zeros(0, np.int64))

    @classmethod
    def of(cls, values: Num[np.ndarray, "..."]) -> SparseCounts:
        """Count scores as the challenge rounds them.

        Args:
            values: Scores of any shape, higher = more anomalous; clipped to [0, 1], then rounded to float16.

        Returns:
            The counts.  Beyond them, memory use is about a megabyte whatever the size and the memory layout.

        Raises:
            ValueError: If a score is NaN.
        """
        counts = np.zeros(N_VALUES, np.int64)
        # nditer walks the array in its memory order: a Fortran-ordered scan is never copied.
        with np.nditer(values, flags=["external_loop", "buffered", "zerosize_ok"], buffersize=_CHUNK_VOXELS) as chunks:
            for chunk in chunks:
                counts += np.bincount(bit_patterns(np.asarray(chunk)), minlength=N_VALUES)
        return cls.of_dense(counts)

    @classmethod
    def of_dense(cls, counts: Int64[np.ndarray, " 15361"]) -> SparseCounts:
        """Keep the scores that occur of a histogram over all float16 values in [0, 1]."""
        patterns = np.flatnonzero(counts)
        return cls(patterns.astype(np.uint16), counts[patterns])

    def dense(self) -> Int64[np.ndarray, " 15361"]:
        """The histogram over all float16 values in [0, 1]; index = the value's bit pattern."""
        counts = np.zeros(N_VALUES, np.int64)
        counts[self.patterns] = self.counts
        return counts

    def __add__(self, other: SparseCounts) -> SparseCounts:
        """The counts of both's voxels together."""
        if not isinstance(other, SparseCounts):
            return NotImplemented
        return SparseCounts.of_dense(self.dense() + other.dense())

    def times(self, repetitions: int) -> SparseCounts:
        """The counts of as many copies of each voxel.

        Raises:
            ValueError: If the number is negative.
        """
        if repetitions < 0:
            raise ValueError(f"found {repetitions} repetitions; expected none or more")
        return SparseCounts(self.patterns, self.counts * repetitions) if repetitions else SparseCounts.empty()

    @property
    def n_voxels(self) -> int:
        """All voxels counted."""
        return int(self.counts.sum())

    @property
    def values(self) -> Float16[np.ndarray, " P"]:
        """The scores that occur, ascending."""
        return self.patterns.view(np.float16)


def float32_cut(threshold: float) -> np.float32:
    """Return the highest float32 value that is not above the threshold once both are rounded to float16.

    Voxels above it are those whose counted score is above the threshold's, so that figures of counts and of connected
    components are of the same voxels, while the components keep their full values.

    Args:
        threshold: From 0 to 1.

    Example:
        >>> np.float32(0.3) > float32_cut(0.3), np.float32(0.3004) > float32_cut(0.3)
        (np.False_, np.True_)
    """
    rounded = np.float16(threshold)
    halfway = np.float32((float(rounded) + float(np.nextafter(rounded, np.float16(np.inf)))) / 2)
    # What lies halfway is rounded to the value whose last bit is 0.
    return halfway if np.float16(halfway) == rounded else np.nextafter(halfway, np.float32(0))


def bit_patterns(values: Num[np.ndarray, "..."]) -> UInt16[np.ndarray, "..."]:
    """Clip scores to [0, 1], round them to float16 and read the bits as integers, which keep the order of the values.

    Raises:
        ValueError: If a score is NaN.
    """
    patterns = np.clip(values, 0, 1).astype(np.float16).view(np.uint16)
    patterns &= _WITHOUT_SIGN  # -0.0 is 0.0
    if patterns.size and patterns.max() >= N_VALUES:
        raise ValueError("a score is NaN; every score must be a number")
    return patterns
