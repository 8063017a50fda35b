"""Figures of what queries read: Figures 4 and 6 (each modality by itself), 7 and 8 (across modalities).

A map is drawn in multiples of its mean, from 0 to at least 2: the map of a query that prefers nothing is of one colour,
and stays so, instead of showing noise at full contrast.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from survq.interpretation.files import relative_to_mean
from survq.interpretation.sheet import Sheet
from survq.reporting.figures import BLUE, VERMILION

if TYPE_CHECKING:
    from survq.slides.slide import Scan

HEAT = "YlOrRd"
PALE, INK = "#d9d9d9", "#222222"
MARK = "#0072B2"
HEADING = 0.4  # inches, apart from the panels, whose titles may otherwise reach into it


@dataclass(frozen=True, eq=False)
class TissueMap:
    """A map of patches, and its most attended ones."""

    title: str
    values: np.ndarray  # (patch,)
    note: str = ""
    top: tuple[int, ...] = ()  # patches, the first first
    images: tuple[np.ndarray | None, ...] = ()  # of those; None where the slide's file is unknown


@dataclass(frozen=True, eq=False)
class Bars:
    """The first pathways of a query, as multiples of the mean over all pathways."""

    title: str
    names: Sequence[str]
    values: Sequence[float]


def query_maps_figure(
    title: str, facts: str, sheet: Sheet, maps: Sequence[TissueMap], bars: Sequence[Bars], effect: np.ndarray | None
) -> Figure:
    """Figures 4 and 6 for one case: (A) slides, (B) maps of the tissue with the patches that stand out, (C) pathways.

    `effect` is the truth of a simulation: 1 where a patch worsens the outlook, -1 where it betters it, else 0.
    """
    columns = 1 + len(maps)
    pictures = any(image is not None for one in maps for image in one.images)
    high = _height(sheet, 2.6)
    heights = [HEADING, high + 2.5, *([1.35] if pictures else []), 2.4]
    figure = Figure(figsize=(3.3 * columns, sum(heights)), layout="constrained")
    heading, *rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    heading.suptitle(_plain_text(title), fontsize=12)
    axes = rows[0].subplots(1, columns)
    draw_tissue(axes[0], sheet, "A  slides" if sheet.pictures else "A  patches of the slides", effect=effect)
    for letter, panel, one in zip(["B  ", *[""] * len(maps)], axes[1:], maps, strict=False):
        draw_map(panel, sheet, one, letter)
    if pictures:
        parts = list(rows[1].subfigures(1, columns, squeeze=False)[0])
        for part, one in zip(parts[1:], maps, strict=True):
            draw_patches(part, one)
        parts[0].text(0.05, 0.95, _plain_text(facts), va="top", fontsize=8)
    cells = rows[-1].subplots(1, len(bars) + (0 if pictures else 1), width_ratios=None, squeeze=False)[0]
    if not pictures:
        cells[0].axis("off")
        cells[0].text(0, 1, _plain_text(facts), va="top", fontsize=8, transform=cells[0].transAxes)
        cells = cells[1:]
    for letter, cell, one_bars in zip(["C  ", *[""] * len(bars)], cells, bars, strict=False):
        draw_bars(cell, one_bars, letter)
    return figure


def cross_modal_figure(
    title: str, facts: str, sheet: Sheet, bars: Bars, heat: TissueMap, effect: np.ndarray | None
) -> Figure:
    """Figures 7 and 8 for one case: (A) its slides, (B) the pathways of a genomic query, (C) what that query reads of
    the tissue by way of histology queries, (D) the patches that stand out.
    """
    high = _height(sheet, 4.4)
    lower = 2.9
    heights = [HEADING, high + 2.3, lower]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    heading, upper, below = figure.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]
    heading.suptitle(_plain_text(title), fontsize=12)
    slides, tissue = upper.subplots(1, 2)
    draw_tissue(slides, sheet, "A  slides" if sheet.pictures else "A  patches of the slides", effect=effect)
    draw_map(tissue, sheet, heat, "C  ")
    left, right = below.subfigures(1, 2, squeeze=False)[0]
    draw_bars(left.subplots(), bars, "B  ")
    if any(image is not None for image in heat.images):
        where, text = right.subfigures(2, 1, height_ratios=[2, 1], squeeze=False)[:, 0]
        draw_patches(where, heat, "D  most attended patches")
    else:
        text = right
        text.suptitle("D  most attended patches: the numbered squares of C", x=0.02, ha="left", fontsize=9)
    text.text(0.02, 0.85 if text is right else 0.98, _plain_text(facts), va="top", fontsize=8)
    return figure


def tissue_map(
    title: str, values: np.ndarray, note: str, positions: pd.DataFrame, scans: Mapping[str, Scan], count: int = 3
) -> TissueMap:
    """The map with its first patches, and their images where the scan of their slide is at hand."""
    top = tuple(np.argsort(-values, kind="stable")[:count].tolist())
    return TissueMap(title, values, note, top, tuple(_image(positions.iloc[patch], scans) for patch in top))


def _image(patch: pd.Series, scans: Mapping[str, Scan]) -> np.ndarray | None:
    scan = scans.get(patch["slide_id"])
    if scan is None or patch[["x", "y"]].isna().any():
        return None
    side = None if pd.isna(patch["patch_size"]) else int(patch["patch_size"])
    return scan.patch(int(patch["x"]), int(patch["y"]), side)


def pathway_bars(title: str, names: Sequence[str], weights: np.ndarray, count: int = 6) -> Bars:
    """The pathways with the largest of the `weights`, (pathway,)."""
    order = np.argsort(-weights, kind="stable")[:count]
    values = relative_to_mean(weights)
    return Bars(title, [names[pathway] for pathway in order], [float(values[pathway]) for pathway in order])


def draw_tissue(axes: Axes, sheet: Sheet, title: str, effect: np.ndarray | None = None) -> None:
    """The slides: their pictures, or else the squares of their patches."""
    _frame(axes, sheet, title)
    if not sheet.known:
        return
    for picture in sheet.pictures:
        _show(axes, picture.pixels, picture)
    if effect is not None:
        squares = _squares(sheet, antialiased=False, cmap=ListedColormap([BLUE, PALE, VERMILION]))
        squares.set(array=effect, clim=(-1.5, 1.5))
        axes.add_collection(squares)
        legend = [
            Line2D([], [], marker="s", linestyle="", color=colour, label=label)
            for colour, label in [(VERMILION, "worsens"), (BLUE, "betters"), (PALE, "no effect")]
        ]
        key = axes.legend(
            handles=legend, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False, borderaxespad=2,
            fontsize=7, handletextpad=0, columnspacing=1, title="the truth of the simulation", title_fontsize=7,
        )  # fmt: skip
        key.set_in_layout(False)  # it stands where the maps beside it have their colour bar
    elif not sheet.pictures:
        axes.add_collection(_squares(sheet, facecolors=PALE, edgecolors="white", linewidths=0.3))


def draw_map(axes: Axes, sheet: Sheet, one: TissueMap, letter: str = "") -> None:
    """A map over the tissue, with its most attended patches numbered."""
    _frame(axes, sheet, letter + one.title, one.note)
    if not sheet.known:
        return
    for picture in sheet.pictures:
        grey = picture.pixels.mean(axis=2).astype(np.uint8)
        _show(axes, np.stack([grey] * 3, axis=2), picture)
    values = relative_to_mean(one.values)
    top = max(2.0, float(np.nanpercentile(values, 99))) if np.isfinite(values).any() else 2.0
    norm = Normalize(0, top)
    squares = _squares(sheet, antialiased=False, cmap=HEAT, norm=norm, alpha=0.6 if sheet.pictures else 1.0)
    squares.set_array(values)
    axes.add_collection(squares)
    places = sheet.corners[list(one.top)]
    for number, (patch, away) in enumerate(zip(one.top, label_directions(places), strict=True), start=1):
        (x, y), side = sheet.corners[patch], sheet.sides[patch]
        if math.isfinite(x):
            axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=MARK, linewidth=1.2))
            edge = np.array([x, y]) + side / 2 * (1 + away)
            axes.annotate(
                str(number), edge, (8 * away[0], -8 * away[1]), textcoords="offset points", ha="center", va="center",
                color=MARK, fontsize=8, fontweight="bold",
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"},
            )  # fmt: skip
    scale = ScalarMappable(norm, HEAT)
    bar = axes.figure.colorbar(scale, ax=axes, location="bottom", shrink=0.75, aspect=30, pad=0.02)
    bar.set_label("times the mean of the case", fontsize=7)
    bar.ax.tick_params(labelsize=7)


def label_directions(corners: np.ndarray) -> np.ndarray:
    """Where the number of each marked patch stands, from its middle: unit vectors (patch, 2), for corners (patch, 2).

    Away from the other marked ones, so that the numbers of neighbours do not cover each other. y grows downwards; a
    single patch has its number on top.
    """
    directions = np.tile([0.0, -1.0], (len(corners), 1))
    for own, corner in enumerate(corners):
        others = corner - np.delete(corners, own, axis=0)
        distance = np.linalg.norm(others, axis=1)
        others, distance = others[distance > 0], distance[distance > 0]  # without unknown positions, too
        if not len(others):
            continue
        units = others / distance[:, None]
        # the nearest count most; in the middle between two, the number stands beside their line
        away = (units * (distance.min() / distance)[:, None] ** 2).sum(axis=0)
        if np.linalg.norm(away) < 0.3:
            away = units[distance.argmin()][::-1] * [1, -1]
        directions[own] = away / np.linalg.norm(away)
    return directions


def draw_patches(figure: SubFigure, one: TissueMap, title: str = "") -> None:
    """The most attended patches as images."""
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontsize=9)
    for number, axes, image in zip(
        range(1, 1 + len(one.images)), figure.subplots(1, len(one.images), squeeze=False)[0], one.images, strict=True
    ):
        axes.set_axis_off()
        if image is None:
            axes.text(0.5, 0.5, "slide file\nnot given", ha="center", va="center", fontsize=7)
        else:
            axes.imshow(image)
        axes.set_title(str(number), fontsize=8, color=MARK, fontweight="bold", pad=2)


def draw_bars(axes: Axes, bars: Bars, letter: str = "") -> None:
    """The first pathways, the largest on top. The line is the mean over all pathways."""
    rows = np.arange(len(bars.names))
    axes.barh(rows, bars.values, height=0.34, color="#E69F00")
    for row, name in zip(rows, bars.names, strict=True):
        short = textwrap.shorten(name.replace("_", " "), 60, placeholder=" …")
        axes.text(0, row - 0.24, _plain_text(short), fontsize=7, va="bottom")
    axes.axvline(1, color="0.5", linewidth=0.8, linestyle=":")
    axes.set(ylim=(len(rows) - 0.5, -0.8), yticks=[], xlim=(0, max([1.15, *[value * 1.05 for value in bars.values]])))
    axes.set_title(_plain_text(letter + bars.title), loc="left", fontsize=9)
    axes.set_xlabel("times the mean over pathways", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _frame(axes: Axes, sheet: Sheet, title: str, note: str = "") -> None:
    """Axes of the sheet, with the names of its slides and a scale bar."""
    heading = axes.set_title(_plain_text(title + (f"\n{note}" if note else "")), loc="left", fontsize=8.5, pad=14)
    heading.set_linespacing(1.25)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if not sheet.known:
        axes.text(0.5, 0.5, "the positions of the patches\nare unknown", ha="center", transform=axes.transAxes)
        return
    room = 0.08 * max(sheet.width, sheet.height)
    axes.set(xlim=(0, sheet.width), ylim=(sheet.height + room, 0), aspect="equal", anchor="S")
    if len(sheet.labels) > 1:
        for number, (_, middle) in enumerate(sheet.labels, start=1):
            axes.text(middle, 0, f"slide {number}", ha="center", va="bottom", fontsize=7, color=INK)
    if sheet.to_scale:
        length = _round_length(sheet.width / 4)
        axes.plot(
            [0, length], [sheet.height + 0.4 * room] * 2, color=INK, linewidth=2, solid_capstyle="butt", clip_on=False
        )
        unit = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
        axes.text(0, sheet.height + 0.6 * room, unit, ha="left", va="top", fontsize=7, color=INK)


def _squares(sheet: Sheet, **style) -> PolyCollection:
    """The patches of the sheet, in the order of the case's patches; those with unknown positions are not drawn."""
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    corners = sheet.corners[:, None] + sheet.sides[:, None, None] * unit
    return PolyCollection(corners, **style)


def _show(axes: Axes, pixels: np.ndarray, where) -> None:
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(pixels, extent=(where.left, where.right, where.bottom, where.top), interpolation="antialiased")
    axes.set(xlim=limits[0], ylim=limits[1])


def _height(sheet: Sheet, width: float) -> float:
    """Of a panel of this width, in inches."""
    return min(max(width * sheet.height / max(sheet.width, 1.0), 1.4), 1.4 * width) if sheet.known else 1.4


def _round_length(most: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is at most `most`."""
    power = 10 ** math.floor(math.log10(max(most, 1e-9)))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most)


def _plain_text(text: str) -> str:
    """Text in which Matplotlib finds no formula: ids and names may contain dollars."""
    return text.replace("$", r"\$")
