"""Maps for other programs: GeoJSON, which QuPath opens over the slide, and a table of attention."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from survq.interpretation.relevance import patch_side


def attention_table(positions: pd.DataFrame, maps: Mapping[str, Float[np.ndarray, " patch"]]) -> pd.DataFrame:
    """One row per map and patch: slide_id, x, y, patch_size (level-0 pixels), query (the map's name), weight."""
    table = pd.concat([positions] * len(maps), ignore_index=True)
    names = pd.Categorical.from_codes(np.repeat(np.arange(len(maps)), len(positions)), list(maps))
    weights = np.concatenate(list(maps.values())).astype(np.float32)
    return table.assign(slide_id=table["slide_id"].astype("category"), query=names, weight=weights)


def geojson(positions: pd.DataFrame, maps: Mapping[str, Float[np.ndarray, " patch"]], slide_id: str) -> bytes:
    """A FeatureCollection of the patches of one slide: squares in level-0 pixels, with the maps as measurements.

    The values of a map are relative to its mean over the case. Patches with unknown positions are left out.
    QuPath: drop the file on the open slide, then Measure > Show measurement maps.
    """
    of_slide = (positions["slide_id"] == slide_id) & positions["x"].notna() & positions["y"].notna()
    side = patch_side(positions[of_slide]) if of_slide.any() else 0.0
    relative = {name: relative_to_mean(weights) for name, weights in maps.items()}
    features = []
    for row in np.flatnonzero(of_slide):
        left, top = int(positions["x"].iloc[row]), int(positions["y"].iloc[row])
        right, bottom = left + int(side), top + int(side)
        corners = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        measured = {name: float(values[row]) for name, values in relative.items() if np.isfinite(values[row])}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [corners]},
                "properties": {"objectType": "detection", "measurements": measured},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False).encode()


def relative_to_mean(weights: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """A map in multiples of its mean: 1 is the attention of a query that prefers nothing. NaN if the mean is 0."""
    mean = weights.mean()
    return weights / mean if mean > 0 else np.full_like(weights, np.nan)
