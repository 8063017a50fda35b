"""Random access to the slides of a features folder, to compare them with what was written."""

from pathlib import Path

import numpy as np

from survq.data.feature_store import read_coordinates, read_slides, slide_index
from survq.data.location import Location


class SlideStore:
    def __init__(self, folder: str | Path | Location):
        self.folder = Location.at(folder)
        self.index = slide_index(self.folder)

    def read(self, slide_id: str) -> np.ndarray:
        return read_slides(self.folder, [self.index.loc[slide_id].to_dict()])

    def coordinates(self, slide_id: str) -> np.ndarray | None:
        return read_coordinates(self.folder, self.index.loc[slide_id].to_dict())
