"""Figures 4 and 6: which patches and which pathways the queries of SurvQ read.

    python studies/query_maps.py                                                   # a simulated cohort, 1 min on 2 CPUs
    python studies/query_maps.py --data DATA --cohorts STAD HNSC --slides SLIDES   # real data, with the slide files
    ray submit cluster/cluster.yaml studies/query_maps.py -- --data s3://BUCKET/DATA

Attention says what a model reads, not what it uses, and a query of an untrained model can find planted patches nearly
as well. Beside attention stand therefore the gradient of the risk and the risk without a region, and with each map how
much it agrees with that of the untrained model. Of pathways, the gradient is weak evidence, too, and is not drawn.
"""

import textwrap
from dataclasses import dataclass

from survq.command_line import from_command_line
from survq.interpretation.cases import cases_by_cohort
from survq.interpretation.held_out import held_out_cases, planted_evidence
from survq.interpretation.relevance import PATHWAYS_BY_GRADIENT
from survq.interpretation.truth import morphologies
from survq.reporting.case_maps import query_map_files, stacked
from survq.settings import MapSettings
from survq.study import open_query_study

PROTOCOL = "paper (fixed settings); each case is shown by the model of the fold that held it out"


@dataclass(frozen=True)
class QueryMaps(MapSettings):
    """Figures 4 and 6: what histology and genomic queries read in a case, on its slides and pathways.

    Of each modality two queries are shown: the one that receives most attention in fusion, and the one whose map
    differs most from its map. A folder per case holds the figure, attention.parquet with all histology queries
    (slide_id, x, y, query, weight), and a GeoJSON per slide, which QuPath opens over it.

    Of pathways, the figure shows attention and the change of the risk without the pathway. The gradient of the risk is
    weak evidence for them: on the simulated cohort it was larger for a pathway without effect than for the planted one.

    The studies query_maps, cross_modal, query_embedding and information share the folder results/trained_queries: SurvQ
    is trained once for all of them.
    """


def main(settings: QueryMaps) -> None:
    with open_query_study(settings, PROTOCOL) as (study, trained):
        evidence, planted = {}, {}
        predictions = {name: run.predictions for name, run in trained.items()}
        for name, cases in cases_by_cohort(settings.cases, predictions, study.cohorts).items():
            cohort, truth = study.cohorts[name], morphologies(study.cohorts[name])
            for case in held_out_cases(trained[name].folds, predictions[name], cohort, cases):
                morphology = None if truth is None else truth[case.case_id]
                files, found = query_map_files(f"{name}  {case.case_id}", case, settings.slides, morphology)
                study.save_files(("query_maps", name, case.case_id), files)
                evidence[name, case.case_id] = found
            if truth is not None:
                planted[name] = planted_evidence(trained[name].folds, predictions[name], cohort, truth)
        if evidence:
            study.save("query_maps", stacked(evidence))
            print(f"\n{textwrap.fill(PATHWAYS_BY_GRADIENT, 110)}")
        for name, table in planted.items():
            study.save(f"planted_patches_{name}", table)
            print(f"\nHow well maps of held-out cases of {name} find planted patches (AUROC; 0.5: chance)\n")
            print(f"{table.to_string(index=False, float_format='{:.3f}'.format)}\n")


if __name__ == "__main__":
    main(from_command_line(QueryMaps))
