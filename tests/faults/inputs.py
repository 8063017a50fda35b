"""Bad inputs: the functions put one on the desk and return the command that a user would run."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pandas as pd
from desk import Desk

from survq.data.write import Slide

IDS = [f"CASE-{number:02d}" for number in range(24)]
TIMES = [float(number + 1) for number in range(24)]
GOOD = "".join(
    f"{case},S{case},{time},{number % 2}\n" for number, (case, time) in enumerate(zip(IDS, TIMES, strict=True))
)
GENES = ["A", "B", "C", "D", "E", "F"]


def split(*held_out: list[str], training: list[str] = IDS) -> list[str]:
    """Tables of folds: `held_out`, and the rest of `training`."""
    tables = []
    for cases in held_out:
        rest = [case for case in training if case not in cases]
        rows = [f"{n},{case},{cases[n] if n < len(cases) else ''}" for n, case in enumerate(rest)]
        tables.append("\n".join([",train,val", *rows]) + "\n")
    return tables


def matrix(change: Callable[[pd.DataFrame], object] | None = None) -> pd.DataFrame:
    """Expression of the cases, case x gene."""
    draws = np.random.default_rng(0).uniform(1, 9, (len(IDS), len(GENES))).round(3)
    table = pd.DataFrame(draws, index=pd.Index(IDS, name="case"), columns=GENES)
    if change is not None:
        change(table)
    return table


def tsv(table: pd.DataFrame) -> str:
    return table.to_csv(sep="\t")


def cell(desk: Desk, value: object) -> list[str]:
    return desk.expression(
        tsv(matrix().astype(object).pipe(lambda t: (t.__setitem__("B", [value, *t["B"][1:]]), t)[1]))
    )


def changed(desk: Desk, table: str, change: Callable[[pd.DataFrame], object], *flags: str) -> list[str]:
    """A folder of another origin, with a changed table, is checked."""

    def applied(frame: pd.DataFrame) -> pd.DataFrame:
        result = change(frame)
        return frame if result is None else result

    desk.table(table, applied)
    return desk.check(*flags)


def put(column: str, value: object, row: int = 3) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object}) if isinstance(value, str) or value is None else frame
        frame.loc[row, column] = value
        return frame

    return change


def infinities(table: pd.DataFrame) -> None:
    table.iloc[:2, 1] = [np.inf, -np.inf]


def few_times(frame: pd.DataFrame) -> None:
    frame["time"] = np.where(frame["event"], 5.0, frame["time"] + 10)


def in_study(desk: Desk, change: Callable[[pd.DataFrame], object], *flags: str) -> list[str]:
    changed(desk, "cases", change)
    return desk.study(*flags)


def bags(desk: Desk, *features: np.ndarray, encoders: tuple[str, ...] = ("uni_v1",)) -> list[str]:
    for case, bag in zip(IDS, features, strict=False):
        desk.h5(case, bag, encoder=encoders[IDS.index(case) % len(encoders)])
    return desk.features("--cases", desk.write("slides.csv", slides_table()))


def slides_table() -> str:
    return "slide_id,case_id\n" + "".join(f"{case}-01Z-00-DX1,{case}\n" for case in IDS)


def stored(desk: Desk, **change: object) -> list[str]:
    """A slide of another origin is in the store."""
    slide = {"slide_id": "new", "case_id": IDS[0], "features": half((3, 8)), "encoder": "uni_v1"} | change
    desk.stored(Slide(**slide))
    return desk.check("--deep")


def half(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Features of a slide."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def pickled(desk: Desk, name: str) -> list[str]:
    desk.write(f"features/{name}", pickle.dumps({"features": [1, 2, 3]}))
    return desk.features("--cases", desk.write("slides.csv", slides_table()))


def damaged(desk: Desk, file: str) -> list[str]:
    content = (desk.folder / "data/C" / file).read_bytes()
    desk.write(f"data/C/{file}", content[: len(content) // 2])
    return desk.check()


def first_slide(desk: Desk) -> str:
    return min(file.name for file in (desk.folder / "data/C/features").glob("*.parquet"))
