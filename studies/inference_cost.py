"""Table 5: time and memory of a forward pass.

    python studies/inference_cost.py                                 # the paper's sizes; 1 min on 2 CPUs
    python studies/inference_cost.py --data DATA --cohorts BRCA      # the sizes of one cohort
    ray submit cluster/cluster.yaml studies/inference_cost.py        # on the GPU of the head node

The paper reports 106 ms and 1.21 GB for SurvQ, 172 ms and 1.42 GB for PIBD (BRCA, one A100). It states neither
the number of patches nor whether reading them is included. Here the features of a case are already in memory.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from survq.command_line import from_command_line
from survq.data.cohort import Cohort, InputSpec, cohort_names
from survq.data.location import Location, replace_file
from survq.data.problems import DataError
from survq.evaluation.cost import hardware, milliseconds, peak_memory, random_case
from survq.exits import exit_on_user_error
from survq.models import TABLE_1
from survq.training.loop import best_device

PAPER = {"survq": (106, 1.21), "pibd": (172, 1.42)}  # ms and GB, on BRCA
# measured genes of the public gene sets. The totals equal the paper's (331 pathways of 1 to 58 genes, 9,745 in all; 50
# hallmarks, 7,110 in all), hence also the numbers of parameters
SET_SIZES = {
    "pathways": [1 + (58 * number + 9) // 331 for number in range(331)],
    "six_groups": [53, 173, 216, 252, 387, 200],
    "eight_families": [216, 200, 33, 173, 216, 387, 150, 53],
    "hallmarks": [142 + (number < 10) for number in range(50)],
}
PAPER_SIZES = InputSpec(
    patch_features=1024,
    genes=4999,
    gene_sets={name: tuple(tuple(range(size)) for size in sizes) for name, sizes in SET_SIZES.items()},
)
HEADER = ["model", "parameters", "ms", "quartiles", "x abmil", "x survq", "memory, GB", "paper: ms", "GB"]


@dataclass(frozen=True)
class InferenceCost:
    """Table 5: milliseconds and memory of a forward pass of every model, for a batch of one case."""

    data: str | None = None
    """Data folder from which to take feature width and pathways, per cohort. If omitted: the paper's sizes."""
    cohorts: tuple[str, ...] = ()
    """Cohorts in the data folder. If omitted: all cohorts."""
    results: Path = Path("results")
    """Folder for results; the tables are written to its subfolder inference_cost."""
    patches: int = 4096
    """Number of patches of the case."""
    repeats: int = 30
    """Timed repeats per model."""


def main(settings: InferenceCost) -> None:
    with exit_on_user_error():
        Location.at(settings.results)  # refuses a bucket
        specs = sizes_of_cohorts(settings.data, settings.cohorts) if settings.data else {"paper": PAPER_SIZES}
        for name, spec in specs.items():
            compare(name, spec, settings)


def sizes_of_cohorts(data: str, names: tuple[str, ...]) -> dict[str, InputSpec]:
    specs = {name: Cohort.load(data, name).spec for name in names or cohort_names(data)}
    lacking = [name for name, spec in specs.items() if not spec.patch_features or not spec.pathways]
    if lacking or not specs:
        raise DataError([f"{data}: {', '.join(lacking) or 'no cohort'}: expected cohorts with slides and pathways."])
    return specs


def compare(name: str, spec: InputSpec, settings: InferenceCost) -> None:
    """Measure all models for one set of sizes, then print and save the table."""
    device = best_device()
    case = partial(random_case, spec, settings.patches, device)
    make = {model: partial(kind, spec) for model, kind in TABLE_1.items() if kind.not_applicable(spec) is None}
    memory = {model: peak_memory(make[model], case) for model in make}
    models = {model: make[model]().to(device) for model in make}
    times = milliseconds(models, case(), settings.repeats)

    quartiles = times.quantile([0.25, 0.5, 0.75])
    rows = []
    for model in models:
        low, median, high = quartiles[model]
        ms, gb = PAPER.get(model, ("", ""))
        parameters = sum(parameter.numel() for parameter in models[model].parameters())
        slower = [f"{median / quartiles[other][0.5]:.2f}" for other in ("abmil", "survq")]
        measured = [f"{median:.1f}", f"{low:.1f}–{high:.1f}", *slower, f"{memory[model] / 1e9:.2f}"]
        rows.append([model, f"{parameters:,}", *measured, str(ms), str(gb)])
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    caption = (
        f"Forward pass of one case: {settings.patches} patches x {spec.patch_features} features, {len(spec.pathways)} "
        f"pathways, on {hardware(device)}; median and quartiles of {settings.repeats} repeats. Memory: peak of "
        f"weights, case and activations together. Paper: on an A100."
    )
    folder = settings.results.expanduser() / "inference_cost" / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"table_5_{name}.md", f"{table}\n\n{caption}\n".encode())
    replace_file(folder / f"milliseconds_{name}.csv", times.to_csv(index_label="repeat").encode())
    print(f"Table 5: cost of a forward pass (sizes: {name})\n\n{table}\n\n{caption}\n")
    print(f"  written   {folder}/table_5_{name}.md, milliseconds_{name}.csv", flush=True)


if __name__ == "__main__":
    main(from_command_line(InferenceCost))
