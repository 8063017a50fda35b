"""The files that show what queries read in one case: a figure, a table of attention, and GeoJSON of each slide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from survq.data.location import parquet
from survq.interpretation.evidence import evidence, evidence_note
from survq.interpretation.files import attention_table, geojson
from survq.interpretation.held_out import HeldOutCase, effect_of
from survq.interpretation.query_maps import QueryMaps
from survq.interpretation.sheet import lay_out, open_scans, slide_files
from survq.reporting.map_figures import cross_modal_figure, pathway_bars, query_maps_figure, tissue_map

Files = dict[str, bytes | memoryview | Figure]


def query_map_files(
    title: str, case: HeldOutCase, slides: Path | None, morphology: np.ndarray | None
) -> tuple[Files, pd.DataFrame]:
    """Figures 4 and 6 of a case, and the evidence for its maps. `slides` is a folder of slide files, `morphology` the
    truth of a simulation. The table of attention holds all histology queries, GeoJSON those that are shown.
    """
    maps, positions = case.maps, case.maps.positions
    queries = maps.leading("histology")
    values, untrained = _shown(maps, queries), _shown(case.untrained, queries)
    table = evidence(values, untrained, morphology)
    with open_scans(slide_files(slides, case.slide_ids)) as scans:
        figure = query_maps_figure(
            title,
            f"{case.facts}\npathways by gradient: weak evidence, not drawn",
            lay_out(positions, case.slides, scans),
            [
                tissue_map(str(row["map"]), values[str(row["map"])], evidence_note(row), positions, scans)
                for row in table.to_dict("records")
            ],
            [
                *(
                    pathway_bars(f"genomic query {query}", maps.pathways, maps.genomics[query])
                    for query in maps.leading("genomics")
                ),
                pathway_bars("change of the risk without the pathway", maps.pathways, maps.pathway_occlusion),
            ],
            None if morphology is None else effect_of(morphology),
        )
    every = _shown(maps, range(len(maps.histology)))
    return {"query_maps.png": figure, **_tables(case, values, every)}, table


def cross_modal_files(
    title: str, case: HeldOutCase, slides: Path | None, morphology: np.ndarray | None
) -> tuple[Files, pd.DataFrame]:
    """Figures 7 and 8 of a case: the genomic query with the largest attention from histology, and what it reads there.

    See `query_map_files`.
    """
    maps, positions = case.maps, case.maps.positions
    query = maps.cross_modal_query()
    name = f"genomic query {query} on the tissue"
    values = {name: maps.cross_modal_heat(query)}
    table = evidence(values, {name: case.untrained.cross_modal_heat(query)}, morphology)
    related = maps.related_queries(query)
    with open_scans(slide_files(slides, case.slide_ids)) as scans:
        figure = cross_modal_figure(
            title,
            f"{case.facts}\nmost related histology queries: {', '.join(map(str, related))}",
            lay_out(positions, case.slides, scans),
            pathway_bars(f"genomic query {query}", maps.pathways, maps.genomics[query]),
            tissue_map(name, values[name], evidence_note(table.iloc[0].to_dict()), positions, scans, count=4),
            None if morphology is None else effect_of(morphology),
        )
    every = values | {f"histology query {related_query}": maps.histology[related_query] for related_query in related}
    return {"cross_modal.png": figure, **_tables(case, every, every)}, table


def stacked(tables: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Tables of several cases, by cohort and case id, as one."""
    return pd.concat(
        [table.assign(cohort=cohort, case_id=case) for (cohort, case), table in tables.items()], ignore_index=True
    )


def _shown(maps: QueryMaps, queries) -> dict[str, np.ndarray]:
    return {f"histology query {query}": maps.histology[query] for query in queries} | dict(maps.relevance)


def _tables(case: HeldOutCase, shown: Mapping[str, np.ndarray], every: Mapping[str, np.ndarray]) -> Files:
    positions = case.maps.positions
    return {
        "attention.parquet": parquet(attention_table(positions, every)),
        **{f"{slide}.geojson": geojson(positions, shown, slide) for slide in case.slide_ids},
    }
