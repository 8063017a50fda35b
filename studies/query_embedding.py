"""Figure 5: the learned queries of both modalities as points, by t-SNE and by PCA.

    python studies/query_embedding.py                                     # a simulated cohort, 1 min on 2 CPUs
    python studies/query_embedding.py --data DATA --cohorts COADREAD      # real data, one machine
    ray submit cluster/cluster.yaml studies/query_embedding.py -- --data s3://BUCKET/DATA

The paper shows two well separated clusters. t-SNE draws clusters also where there are none, and differently with every
seed: beside it stand a second seed, PCA, the queries before training, and the share of queries whose nearest neighbour
is of their own modality, which needs no picture.
"""

from dataclasses import dataclass

from survq.command_line import from_command_line
from survq.reporting.information import query_points, query_points_figure
from survq.settings import StudySettings
from survq.study import open_query_study

PROTOCOL = "paper (fixed settings); the raw query vectors of the model of fold 0"


@dataclass(frozen=True)
class QueryEmbedding(StudySettings):
    """Figure 5: t-SNE (seeds 0 and 1) and PCA of the queries of one fold's model, and of the same before training.

    SurvQ is trained once for query_maps, cross_modal, query_embedding and information.
    """


def main(settings: QueryEmbedding) -> None:
    with open_query_study(settings, PROTOCOL) as (study, trained):
        for name, run in trained.items():
            points = query_points(run.folds[0])
            study.save(f"query_embedding_{name}", points)
            study.save(f"query_embedding_{name}", query_points_figure(points, f"Learned queries, {name}"))
            for model, same in points.groupby("model", sort=False)["same_neighbour"].first().items():
                print(f"  {name}, {model}: the nearest query is of the same modality for {same:.1%}")


if __name__ == "__main__":
    main(from_command_line(QueryEmbedding))
