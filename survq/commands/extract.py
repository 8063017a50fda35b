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
    from survq.data.feature_import import SlideResult


@dataclass(frozen=True)
class Extract:
    """Extract patch features from slides: find the tissue, cut it into patches of 224 px at 20x, encode and store them.

    Slides are matched to cases by TCGA barcode, or by the table of --cases. On a cluster, slides and weights must be
    on a disk shared by all nodes. Run the same command again to resume: finished slides are skipped.

    Check the overviews afterwards: each shows a slide with the outline of its tissue and its patches.

    example:  survq extract ~/slides data --cohort BLCA --weights ~/uni/pytorch_model.bin

    try out:  survq extract ~/slides data --cohort BLCA --encoder tiny

    next:     survq check data
    """

    slides: Annotated[Positional[Path], arg(metavar="SLIDES")]
    """Folder of slides, searched with its subfolders: .svs, .ndpi, .mrxs, .tiff, ..."""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Data folder, or its bucket URI."""
    cohort: str
    """Cohort of the slides. Import its labels first, with `survq import labels`."""
    encoder: str = "uni"
    """uni; timm:NAME for any image model of timm; or tiny, plain colours, which needs no weights."""
    weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Weights of the encoder, .safetensors or .bin. If omitted: the local cache of the Hugging Face hub."""
    download: bool = False
    """Download missing weights from the hub. UNI's are gated: request access at huggingface.co/MahmoodLab/UNI."""
    cases: Annotated[Path | None, arg(metavar="TABLE")] = None
    """CSV with the columns case_id and slide_id, for slides not named by barcode, and optionally mpp, their scale."""
    mpp: float | None = None
    """Micrometres per level-0 pixel of all slides, whatever their files state; for one: column mpp of --cases."""
    sample_types: Annotated[tuple[str, ...], arg(metavar="NN ...")] = ("01",)
    """Sample types to extract, by characters 14-15 of the TCGA barcode: 01 primary tumour, 06 metastasis, 11 normal."""
    slide_types: Annotated[tuple[str, ...], arg(metavar="XX ...")] = ("DX",)
    """Slide types to extract, by the TCGA barcode: DX diagnostic; TS, BS, MS frozen sections."""
    timeout: float = 300
    """A slide fails after this many seconds without a patch."""

    def run(self) -> int:
        needed = ["openslide", "PIL", "scipy", *(["timm"] if self.encoder != "tiny" else [])]
        if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
            raise UsageError(f"{', '.join(missing)} not installed. Fix: pip install 'survq[wsi]'")
        from survq.data.patch_sizes import BELIEVABLE, believable

        if self.timeout <= 0:
            raise UsageError("--timeout must be above 0")
        if self.mpp is not None and not believable(self.mpp):
            raise UsageError(
                f"--mpp {self.mpp:g}: expected micrometres per pixel, from {BELIEVABLE[0]} to {BELIEVABLE[1]}"
            )
        from survq.slides.encoder import load_encoder
        from survq.slides.extract import extract
        from survq.slides.pipeline import encode_slides

        start = time.monotonic()
        # every node loads its own encoder; loading it here first shows errors before anything starts
        encoder = load_encoder(self.encoder, self.weights, download=self.download, device="cpu")
        encode = partial(
            encode_slides,
            encoder=self.encoder,
            weights=self.weights and self.weights.absolute(),
            identity=encoder.name,
            timeout=self.timeout,
        )
        results = extract(
            *(self.slides, self.data, self.cohort, encoder, encode),
            table=self.cases,
            mpp=self.mpp,
            sample_types=self.sample_types,
            slide_types=self.slide_types,
        )
        self._print_summary(results, encoder.name, time.monotonic() - start)
        states = {result.state for result in results}
        return DATA if "failed" in states or not states & {"written", "found"} else 0

    def _print_summary(self, results: list[SlideResult], encoder: str, seconds: float) -> None:
        from survq.text import clock, itemised

        by_state: dict[str, list[SlideResult]] = {state: [] for state in ("written", "found", "failed", "skipped")}
        for result in results:
            by_state[result.state].append(result)
        for state, heading in (
            ("skipped", "Skipped"),
            ("failed", "Failed"),
        ):
            if unused := by_state[state]:
                print(f"{heading}:")
                print("\n".join(itemised([f"{result.slide_id}: {result.reason}" for result in unused])))
        written = by_state["written"]
        if overruled := [f"{result.slide_id}: {result.reason}" for result in written if result.reason]:
            print("Scales that differ from those in the files:")
            print("\n".join(itemised(overruled)))
        patches, size = sum(result.patches for result in written), sum(result.bytes for result in written)
        counts = ", ".join(
            f"{len(by_state[state])} {name}"
            for state, name in (
                ("written", "written"),
                ("found", "already stored"),
                ("failed", "failed"),
                ("skipped", "skipped"),
            )
        )
        folder = f"{self.data.rstrip('/')}/{self.cohort}"
        print(f"{self.cohort}: {len(results)} slides: {counts}; {encoder}.")
        print(
            f"    {patches:,} patches, {size / 1e6:,.1f} MB, in {clock(seconds)}: "
            f"{patches / seconds:,.1f} patches/s, {len(written) / seconds:.2g} slides/s"
        )
        if by_state["failed"] or by_state["skipped"]:
            print(f"    skipped and failed slides with reasons: {folder}/features/skipped.csv")
        print(f"    overviews to check: {folder}/overviews")
        print(f"Next: survq check {shlex.quote(self.data)}")
