"""Slides for tests: tiled TIFFs for OpenSlide. Equal tiles are stored once, so that large slides are small files."""

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

TILE = 256
SHORT, LONG, RATIONAL = 3, 4, 5

Draw = Callable[[int, int], np.ndarray]
"""The tile (TILE, TILE, 3), uint8, whose top-left corner is at (x, y) of its level."""


def write_tiff(file: Path, levels: Sequence[tuple[int, int, Draw]], mpp: float | None = None) -> Path:
    """Levels are (width, height, draw), the largest first; `mpp` becomes the resolution tags."""
    stored: dict[bytes, tuple[int, int]] = {}  # pixels of a tile -> offset and size in the file
    with file.open("wb") as stream:
        stream.write(b"II*\0" + bytes(4))
        link = 4  # position of the offset of the next level's directory
        for number, (width, height, draw) in enumerate(levels):
            offsets, counts = [], []
            for y in range(0, height, TILE):
                for x in range(0, width, TILE):
                    pixels = draw(x, y).tobytes()
                    if pixels not in stored:
                        tile = zlib.compress(pixels, 1)
                        stored[pixels] = stream.tell(), len(tile)
                        stream.write(tile)
                    offsets.append(stored[pixels][0])
                    counts.append(stored[pixels][1])
            tags = [
                *((254, LONG, [int(number > 0)]), (256, LONG, [width]), (257, LONG, [height]), (258, SHORT, [8, 8, 8])),
                *((259, SHORT, [8]), (262, SHORT, [2]), (277, SHORT, [3])),
                *((322, LONG, [TILE]), (323, LONG, [TILE]), (324, LONG, offsets), (325, LONG, counts)),
            ]
            if mpp is not None:
                per_cm = [round(10_000_000 / mpp), 1000]
                tags += [(282, RATIONAL, per_cm), (283, RATIONAL, per_cm), (296, SHORT, [3])]
            link = _directory(stream, sorted(tags), link)
    return file


def _directory(stream, tags, link: int) -> int:
    entries = []
    for tag, kind, values in tags:
        content = struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        count = len(values) // 2 if kind == RATIONAL else len(values)
        if len(content) > 4:
            stream.write(bytes(stream.tell() % 2))
            address = stream.tell()
            stream.write(content)
            content = struct.pack("<I", address)
        entries.append(struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0"))
    stream.write(bytes(stream.tell() % 2))
    here = stream.tell()
    stream.write(struct.pack("<H", len(entries)) + b"".join(entries))
    end = stream.tell()
    stream.write(bytes(4))
    stream.seek(link)
    stream.write(struct.pack("<I", here))
    stream.seek(0, 2)
    return end


def of_array(pixels: np.ndarray) -> tuple[int, int, Draw]:
    """A level that shows an array (height, width, 3)."""
    height, width = pixels.shape[:2]

    def draw(x: int, y: int) -> np.ndarray:
        tile = np.full((TILE, TILE, 3), 255, np.uint8)
        part = pixels[y : y + TILE, x : x + TILE]
        tile[: part.shape[0], : part.shape[1]] = part
        return tile

    return width, height, draw


def stained(width: int, height: int, seed: int = 0) -> tuple[int, int, Draw]:
    """A level with stained tissue in the middle and glass around it; all tiles of a kind are equal."""
    random = np.random.default_rng(seed)
    glass = np.clip(random.normal(242, 2, (TILE, TILE, 3)), 0, 255).astype(np.uint8)
    nuclei = random.random((TILE // 8, TILE // 8)).repeat(8, 0).repeat(8, 1)[..., None] < 0.3
    tissue = np.where(nuclei, [90, 60, 140], [220, 150, 190]) + random.normal(0, 6, (TILE, TILE, 3))
    tissue = np.clip(tissue, 0, 255).astype(np.uint8)

    def draw(x: int, y: int) -> np.ndarray:
        inside = width // 4 <= x < 3 * width // 4 and height // 4 <= y < 3 * height // 4
        return tissue if inside else glass

    return width, height, draw


def flat(width: int, height: int, colour: tuple[int, int, int]) -> tuple[int, int, Draw]:
    """A level of one colour."""
    tile = np.full((TILE, TILE, 3), colour, np.uint8)
    return width, height, lambda x, y: tile
