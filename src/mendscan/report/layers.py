"""Slices as small pictures for a web page: grey scans, maps with their own transparency, outlines as paths."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from contourpy import contour_generator
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from mendscan.shapes import VoxelsXYZ

__all__ = [
    "COLOURS",
    "colour_bar",
    "encode_colours",
    "encode_grey",
    "grey_window",
    "lossy",
    "map_palette",
    "outline",
    "to_grey",
]

COLOURS = "inferno"
"""Its lightness rises evenly: it reads in greyscale and for colour-blind readers."""
_WINDOW_PERCENTILES = (0.5, 99.7)
_HIGHEST = 255

Rows = Float[np.ndarray, "rows columns"]


def grey_window(voxels_XYZ: VoxelsXYZ) -> tuple[float, float]:
    """Return the intensities that are shown black and white, of a scan and its restoration alike."""
    low, high = (float(value) for value in np.percentile(voxels_XYZ, _WINDOW_PERCENTILES))
    return (low, high) if high > low else (float(voxels_XYZ.min()), float(voxels_XYZ.max()))


def to_grey(picture: Rows, window: tuple[float, float]) -> UInt8[np.ndarray, "rows columns"]:
    """Return intensities as grey values, black and white at the ends of the window."""
    low, high = window
    return np.rint(np.clip((picture - low) / (high - low), 0, 1) * _HIGHEST).astype(np.uint8)


def encode_grey(picture: UInt8[np.ndarray, "rows columns"]) -> bytes:
    """Return grey values as a PNG, without loss; the first row of the array is the lowest of the picture."""
    return _png(Image.fromarray(np.ascontiguousarray(picture[::-1])))


def encode_colours(picture: Rows, threshold: float) -> bytes:
    """Return values in [0, 1] as a PNG in colours that let through what lies below it where the values are low."""
    levels = np.rint(np.clip(picture[::-1], 0, 1) * _HIGHEST).astype(np.uint8)
    colours = map_palette(threshold)
    levels[colours[levels, 3] == 0] = 0  # nothing is seen of them, and an even area is small
    return _with_palette(levels, colours)


@cache
def map_palette(threshold: float) -> UInt8[np.ndarray, "256 4"]:
    """Return red, green, blue and opacity of the 256 levels of a map.

    From half the healthy threshold to the threshold the colours come in, as the square; below nothing is shown, above
    they hide what is under them.
    """
    from matplotlib import colormaps

    levels = np.linspace(0, 1, _HIGHEST + 1)
    colours = np.rint(colormaps[COLOURS](levels) * _HIGHEST)
    colours[:, 3] = np.rint(np.clip(levels / max(threshold / 2, 1e-6) - 1, 0, 1) ** 2 * _HIGHEST)
    return colours.astype(np.uint8)


def colour_bar(threshold: float) -> bytes:
    """Return the levels of a map from left to right, as a PNG one pixel high, in the colours of `encode_colours`."""
    return _with_palette(np.arange(_HIGHEST + 1, dtype=np.uint8)[None], map_palette(threshold))


def lossy(picture: bytes, quality: int) -> bytes:
    """Return a picture as WebP with losses, some tenth of its size."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()


def outline(
    picture: Rows, inside: Bool[np.ndarray, "rows columns"], threshold: float, pixel_mm: tuple[float, float]
) -> str:
    """Return where a map crosses the threshold around some of its pixels, as the path of an SVG in millimetres.

    Args:
        picture: The map's slice, first row lowest.
        inside: Pixels above the threshold to be surrounded; others above it are not.
        threshold: The level.
        pixel_mm: Width and height of a pixel.

    Returns:
        Closed lines from the top left corner of the picture; empty if no pixel is inside.
    """
    if not inside.any():
        return ""
    below = np.nextafter(np.float32(threshold), np.float32(-1))
    values = np.where(inside, picture, np.minimum(picture, below))
    padded = np.pad(values, 1, constant_values=min(0.0, 2 * threshold - 1))  # lines close at the border
    across, up = pixel_mm
    height = picture.shape[0] * up
    paths = []
    for line in contour_generator(z=padded.astype(np.float64)).lines(threshold):
        points = np.asarray(line)
        x = np.clip(points[:, 0] - 0.5, 0, picture.shape[1]) * across
        y = height - np.clip(points[:, 1] - 0.5, 0, picture.shape[0]) * up
        paths.append("M" + "L".join(f"{a:.4g} {b:.4g}" for a, b in zip(x, y, strict=True)) + "Z")
    return "".join(paths)


def _with_palette(levels: UInt8[np.ndarray, "rows columns"], colours: UInt8[np.ndarray, "256 4"]) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(levels)).convert("L")
    image.putpalette(colours[:, :3].tobytes())
    return _png(image, transparency=colours[:, 3].tobytes())


def _png(image: Image.Image, **options: bytes) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True, **options)
    return stream.getvalue()
