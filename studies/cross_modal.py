"""Figures 7 and 8: which tissue a genomic query of SurvQ reads, by way of histology queries.

    python studies/cross_modal.py                                              # a simulated cohort, 1 min on 2 CPUs
    python studies/cross_modal.py --data DATA --cohorts BLCA --slides SLIDES   # real data, with the slide files
    ray submit cluster/cluster.yaml studies/cross_modal.py -- --data s3://BUCKET/DATA

The genomic query is not chosen at random, as in the paper, but by a rule: it receives the largest total attention from
the histology queries. Its map is its attention to histology queries times their attention to patches. Products of
attention are weak evidence: with each map stands how much it agrees with that of the untrained model.
"""

from dataclasses import dataclass

from survq.command_line import from_command_line
from survq.interpretation.cases import cases_by_cohort
from survq.interpretation.held_out import held_out_cases
from survq.interpretation.truth import morphologies
from survq.reporting.case_maps import cross_modal_files, stacked
from survq.settings import MapSettings
from survq.study import open_query_study

PROTOCOL = "paper (fixed settings); each case is shown by the model of the fold that held it out"


@dataclass(frozen=True)
class CrossModal(MapSettings):
    """Figures 7 and 8: the pathways of a genomic query, and the tissue that it reads by way of histology queries.

    A folder per case holds the figure, attention.parquet with the map and the most related histology queries (slide_id,
    x, y, query, weight), and a GeoJSON per slide, which QuPath opens over it. SurvQ is trained once for query_maps,
    cross_modal, query_embedding and information.
    """


def main(settings: CrossModal) -> None:
    with open_query_study(settings, PROTOCOL) as (study, trained):
        evidence = {}
        predictions = {name: run.predictions for name, run in trained.items()}
        for name, cases in cases_by_cohort(settings.cases, predictions, study.cohorts).items():
            cohort, truth = study.cohorts[name], morphologies(study.cohorts[name])
            for case in held_out_cases(trained[name].folds, predictions[name], cohort, cases):
                morphology = None if truth is None else truth[case.case_id]
                files, found = cross_modal_files(f"{name}  {case.case_id}", case, settings.slides, morphology)
                study.save_files(("cross_modal", name, case.case_id), files)
                evidence[name, case.case_id] = found
        if evidence:
            study.save("cross_modal", stacked(evidence))


if __name__ == "__main__":
    main(from_command_line(CrossModal))
