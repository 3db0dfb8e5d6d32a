"""Draws incremental.png for docs/performance.md: python docs/images/incremental.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

ROWS, COLUMNS, ROW, COLUMN = 6, 7, 3, 3
KEPT, ABOVE, HERE, LATER, AGAIN = "#c9d6df", "#f6c667", "#e4572e", "#ffffff", "#f3a683"
EDGE = "#52616b"


def main() -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.4), width_ratios=(1, 1, 1.25))
    draw_sequential(left)
    draw_incremental(middle)
    draw_tree(right)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("incremental.png"), dpi=110)


def draw_grid(axes: Axes, colour_of: dict[tuple[int, int], str], title: str) -> None:
    for row in range(ROWS):
        for column in range(COLUMNS):
            colour = colour_of.get((row, column), LATER)
            axes.add_patch(Rectangle((column, -row - 1), 1, 1, facecolor=colour, edgecolor=EDGE, linewidth=0.8))
    axes.set(xlim=(-0.2, COLUMNS + 0.2), ylim=(-ROWS - 1.9, 0.3), aspect="equal")
    axes.set_title(title, fontsize=11)
    axes.axis("off")


def draw_sequential(axes: Axes) -> None:
    everything = {(row, column): AGAIN for row in range(ROWS) for column in range(COLUMNS)}
    draw_grid(axes, everything | {(ROW, COLUMN): HERE}, "The definition: one whole pass per position")
    note(
        axes,
        "to decide one code (red), every activation of the grid\n"
        "is computed again: h·w passes, of which one position is used",
    )


def draw_incremental(axes: Axes) -> None:
    before = {(r, c): KEPT for r in range(ROWS) for c in range(COLUMNS) if (r, c) < (ROW, COLUMN)}
    row_above = {(ROW - 1, c): ABOVE for c in range(COLUMNS)}
    draw_grid(axes, before | row_above | {(ROW, COLUMN): HERE}, "Incremental: every activation once")
    for column in range(COLUMNS):
        arrow(axes, (column + 0.5, -ROW + 0.35), (column + 0.5, -ROW - 0.25), EDGE)
    arrow(axes, (COLUMN - 0.6, -ROW - 0.62), (COLUMN + 0.3, -ROW - 0.62), "black")
    note(
        axes,
        "row phase: once the row above (yellow) is decided, all that\n"
        "looks up, for all columns; position phase: what looks left,\n"
        "and the attention over kept (grey) keys",
    )


def draw_tree(axes: Axes) -> None:
    """Five restorations of one slice: one state row until their codes differ."""
    heights = {"all": 0.0, "a": 1.4, "b": -1.4, "a1": 2.1, "a2": 0.7, "b1": -0.8, "b2": -2.0}
    segments = [
        ("all", 0, 3, 5.0),
        ("a", 3, 6, 3.2),
        ("b", 3, 7.5, 2.2),
        ("a1", 6, 11, 2.2),
        ("a2", 6, 11, 1.3),
        ("b1", 7.5, 11, 1.3),
        ("b2", 7.5, 11, 1.3),
    ]
    for name, start, end, width in segments:
        axes.plot((start, end), (heights[name],) * 2, color=EDGE, linewidth=1.6 * width, solid_capstyle="butt")
    for at, parent, children in ((3, "all", "ab"), (6, "a", ("a1", "a2")), (7.5, "b", ("b1", "b2"))):
        for child in children:
            axes.plot((at, at), (heights[parent], heights[child]), color=EDGE, linewidth=1.2)
        axes.plot(at, heights[parent], "o", color=HERE, markersize=9)
    for name, text in (
        ("all", "5 restored"),
        ("a", "3"),
        ("b", "2"),
        ("a1", "2"),
        ("a2", "1"),
        ("b1", "1"),
        ("b2", "1"),
    ):
        start = next(s for n, s, *_ in segments if n == name)
        axes.text(start + 0.15, heights[name] + 0.28, text, fontsize=9)
    axes.set(xlim=(-0.3, 11.3), ylim=(-3.9, 2.9))
    axes.set_title("One state row per distinct prefix of codes", fontsize=11)
    axes.text(
        5.5,
        -3.6,
        "raster order →   a row forks (red) only where an unlikely code\n"
        "is replaced by different samples; until then all share its work",
        ha="center",
        fontsize=9,
    )
    axes.axis("off")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=colour, linewidth=1.1))


def note(axes: Axes, text: str) -> None:
    axes.text(COLUMNS / 2, -ROWS - 0.25, text, ha="center", va="top", fontsize=9)


if __name__ == "__main__":
    main()
