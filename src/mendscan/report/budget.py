"""How much is pictured, and how finely, so that a report stays below a size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mendscan.report.layers import lossy
from mendscan.report.pictures import CasePictures, Plane, ShownView

__all__ = ["Quality", "qualities", "with_quality"]

_WEBP, _COARSE_WEBP = 88, 60


@dataclass(frozen=True)
class Quality:
    """What a report pictures.

    Attributes:
        scans: How many scans, the least likely first.
        findings: How many findings of each.
        webp: Quality of scans and restorations as WebP with losses; None if they are PNGs without.
    """

    scans: int
    findings: int
    webp: int | None = None

    def lacks(self, best: Quality) -> str:
        """Return in words what is left out compared with the best; empty if nothing is."""
        if best.scans and not self.scans:
            return "no scan is pictured"
        said = [] if self.webp is None else [f"scans and restorations are stored with losses (WebP {self.webp})"]
        if self.findings < best.findings:
            said.append(f"of each scan at most {self.findings} instead of {best.findings} findings are pictured")
        if self.scans < best.scans:
            said.append(f"the {self.scans} least likely instead of {best.scans} scans are pictured")
        return "; ".join(said)


def qualities(best: Quality) -> Iterator[Quality]:
    """Yield what to try, best first: without losses, with small ones, fewer findings, fewer scans.

    Example:
        >>> [(each.scans, each.findings, each.webp) for each in qualities(Quality(2, 5))]
        [(2, 5, None), (2, 5, 88), (2, 3, 88), (2, 2, 88), (2, 1, 88), (2, 1, 60), (1, 1, 60), (0, 1, 60)]
    """
    yield best
    for findings in (best.findings, 3, 2, 1):
        if findings <= best.findings:
            yield replace(best, findings=findings, webp=_WEBP)
    scans = best.scans
    while True:
        yield Quality(scans, 1, _COARSE_WEBP)
        if scans == 0:
            return
        scans //= 2


def with_quality(pictures: CasePictures, quality: Quality) -> CasePictures:
    """Return pictures as a quality has them: fewer, and smaller."""
    shown = tuple(
        ShownView(each.view, tuple(_with_losses(plane, quality.webp) for plane in each.planes))
        for each in pictures.views[: quality.findings]
    )
    worst = pictures.worst_slice
    return replace(pictures, views=shown, worst_slice=None if worst is None else _with_losses(worst, quality.webp))


def _with_losses(plane: Plane, webp: int | None) -> Plane:
    if webp is None:
        return plane
    scan, restored = (min(picture, lossy(picture, webp), key=len) for picture in (plane.scan, plane.restored))
    return replace(plane, scan=scan, restored=restored)
