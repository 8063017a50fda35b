"""survq extract"""

from __future__ import annotations

import importlib.util
import shlex
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from survq.exits import DATA, UsageError

if TYPE_CHECKING:
    from survq.data.feature_import import SlideOutcome


@dataclass(frozen=True)
class Extract:
    """Slides to patch features: tissue, patches of 224 px at 20x, a patch encoder, the feature store.

    A slide goes to the case that its TCGA barcode names, or to the one that --cases tells. On a cluster the slides and
    weights must be on a disk that all nodes share. What is finished is not done again: start the same command again
    to continue.

    Look at the overviews: each slide with the outline of its tissue and the grid of its patches.

    example:  survq extract ~/slides data --cohort BLCA --weights ~/uni/pytorch_model.bin

    try it:   survq extract ~/slides data --cohort BLCA --encoder tiny

    next:     survq check data
    """

    slides: Annotated[Positional[Path], arg(metavar="SLIDES")]
    """Folder with slides in it or in folders below it: .svs, .ndpi, .mrxs, .tiff, ..."""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Data folder, or the address of one in a bucket."""
    cohort: str
    """Cohort that the slides are of; its cases must be there, from `survq import`."""
    encoder: str = "uni"
    """uni; timm:NAME, any image model of timm; or tiny, mere colours, which needs no weights."""
    weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """The encoder's weights, .safetensors or .bin. By default those in the cache of the Hugging Face hub."""
    download: bool = False
    """Fetch weights that are not on this machine. UNI's are given out by huggingface.co/MahmoodLab/UNI on request."""
    cases: Annotated[Path | None, arg(metavar="TABLE")] = None
    """CSV with the columns case_id and slide_id, for slides not named by barcode; it may have a column mpp."""
    mpp: float | None = None
    """Micrometres a pixel of those slides whose files do not say."""
    timeout: float = 300
    """Seconds without a patch after which a slide is given up."""

    def run(self) -> int:
        needed = ["openslide", "PIL", "scipy", *(["timm"] if self.encoder != "tiny" else [])]
        if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
            raise UsageError(f"{', '.join(missing)} not installed. Fix: pip install 'survq[wsi]'")
        if self.timeout <= 0 or (self.mpp is not None and self.mpp <= 0):
            raise UsageError("--timeout and --mpp must be above 0")
        from survq.slides.encoder import load_encoder
        from survq.slides.extract import extract
        from survq.slides.pipeline import encode_slides

        start = time.monotonic()
        # every node loads its own; here it is seen, before anything is started, that it can be loaded
        encoder = load_encoder(self.encoder, self.weights, download=self.download, device="cpu")
        encode = partial(
            encode_slides,
            encoder=self.encoder,
            weights=self.weights and self.weights.absolute(),
            identity=encoder.name,
            timeout=self.timeout,
        )
        outcomes = extract(self.slides, self.data, self.cohort, encoder, encode, table=self.cases, mpp=self.mpp)
        self._tell(outcomes, encoder.name, time.monotonic() - start)
        return DATA if any(outcome.state == "failed" for outcome in outcomes) else 0

    def _tell(self, outcomes: list[SlideOutcome], encoder: str, seconds: float) -> None:
        from survq.text import clock, itemised

        by_state: dict[str, list[SlideOutcome]] = {state: [] for state in ("written", "found", "failed", "skipped")}
        for outcome in outcomes:
            by_state[outcome.state].append(outcome)
        for state, heading in (("skipped", "Left out, for they are of no case"), ("failed", "Failed")):
            if left_out := by_state[state]:
                print(f"{heading}:")
                print("\n".join(itemised([f"{outcome.slide_id}: {outcome.reason}" for outcome in left_out])))
        written = by_state["written"]
        patches, size = sum(outcome.patches for outcome in written), sum(outcome.bytes for outcome in written)
        counts = ", ".join(
            f"{len(by_state[state])} {name}"
            for state, name in (("written", "done"), ("found", "found"), ("failed", "failed"), ("skipped", "left out"))
        )
        folder = f"{self.data.rstrip('/')}/{self.cohort}"
        print(f"{self.cohort}: {len(outcomes)} slides: {counts}; {encoder}.")
        print(
            f"    {patches:,} patches, {size / 1e6:,.1f} MB, in {clock(seconds)}: "
            f"{patches / seconds:,.1f} patches/s, {len(written) / seconds:.2g} slides/s"
        )
        if by_state["failed"] or by_state["skipped"]:
            print(f"    who was left out, and why: {folder}/features/skipped.csv")
        print(f"    look at them: {folder}/overviews")
        print(f"Next: survq check {shlex.quote(self.data)}")
