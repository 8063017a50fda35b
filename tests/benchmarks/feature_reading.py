"""What a step spends on its features, against `torch.load` of a half-precision file and a cast.

survq reads the store and converts its features to the dtype of the products once a study (here shared out over the
paper's 50 epochs), looks at every byte of a view of shared memory, and converts what its step still converts.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from survq.data.feature_store import read_slides, slide_index
from survq.data.half_floats import converted
from survq.data.location import Location
from survq.data.write import Slide, write_features

from . import reference
from .measure import HalfPrecisionWork, Row, alternate, at_least, at_most, cpu_seconds, has_amx, median_of_ours, ratio
from .training import step_seconds
from .work import BATCH, as_read, make_run, make_work, put_beside

EPOCHS = 50


def feature_reading(quick: bool) -> list[Row]:
    work = make_work(4, tiny=8)
    run = make_run(work, work.one_fold(), epochs=1)
    cases = work.case_ids[:4]
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder, "store"), (Slide(case, case, work.bags[case].numpy()) for case in cases))
        store = Location.at(Path(folder, "store"))
        rows = slide_index(store).to_dict("records")
        other = put_beside(work, run, Path(folder), 4)
        case = cases[0]
        of_case = [row for row in rows if row["case_id"] == case]
        pairs = alternate(
            lambda: torch.from_numpy(read_slides(store, of_case).copy()),
            lambda: reference.load(other.files[0]),
            3 if quick else 9,
        )
        seen = statistics.median(cpu_seconds(lambda: work.bags[case].view(torch.int64).sum()) for _ in range(9))
        bags = as_read(work, run)
        dtype = bags[case].dtype
        once_converted = statistics.median(cpu_seconds(lambda: converted(work.bags[case], dtype)) for _ in range(9))
        batch = other.learner.table.batch(cases, [bags[case] for case in cases])
        for seed in range(2):  # the first is warm-up
            with HalfPrecisionWork() as conversion:
                other.learner.step(batch, len(batch), seed)
    in_step = conversion.seconds / len(cases)
    once, load = median_of_ours(pairs), statistics.median(theirs for _, theirs in pairs)
    in_a_step = (once + once_converted) / EPOCHS + seen + in_step
    note = (
        f"a slide in a step {in_a_step * 1e3:.1f} ms: seen {seen * 1e3:.1f}, converted {in_step * 1e3:.1f}, and "
        f"1/{EPOCHS} of {once * 1e3:.0f} ms from the store with its checksum and {once_converted * 1e3:.0f} ms of "
        f"conversion; torch.load + cast {load * 1e3:.1f} ms"
    )
    return [
        at_least("feature_reading", load / in_a_step, 7, "x torch.load + cast", note, binds=has_amx()),
        Row("feature_store", ratio(pairs), "x torch.load + cast", note="store to tensor, every byte checked"),
        at_most("feature_share", in_a_step / (step_seconds(quick) / BATCH), 0.06, "of the training step"),
    ]
