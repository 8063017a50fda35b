"""Cohorts with a planted truth, drawn from a simulated world. NumPy only; every draw depends on seeds alone.

A case is made in this order, a function each, from top to bottom:

    latent state      activities of its pathways, severities and inclinations of its morphologies
    tissue            one to three slides with pieces of tissue, a morphology for each patch
    truth             eta = a h + b g + c h g, the log hazard
    outcome           time of death, by Weibull; end of follow-up; which of them came first
    expression        genes, from the activities
    missing           cases that lack their slides or their expression
    patch features    painted when a slide is asked for, never held all at once

The letters: h is what histology has to say of the hazard and g what the genes have, both with mean 0 and deviation 1
over the world's cases. h is told from what the slides show (the shares that the patches really have), not from the
inclinations behind them: a truth that the data hide is nobody's to learn, and would be no bar.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from survq.data import streams
from survq.data.cohort_files import cohort_folder, read_source
from survq.data.folds import Fold, make_folds
from survq.data.gene_sets import PATHWAYS
from survq.data.location import Location, parquet
from survq.data.problems import DataError
from survq.data.streams import generator
from survq.data.write import Slide, write_cohort
from survq.evaluation.concordance import concordance_index
from survq.exits import UsageError
from survq.simulation import worlds
from survq.simulation.worlds import PRESETS, PROGNOSTIC, PatchSpace, Transcriptome, WorldConfig
from survq.text import preview

SHARE_SPREAD = 0.8  # deviation of a case's log inclination to a morphology
CROSSTALK = 0.3  # how much the first planted pathway inclines a case to the first prognostic morphology
SLIDES_A_CASE = (0.75, 0.2, 0.05)  # probabilities of 1, 2 and 3
REGION_CELLS = 4.0  # length over which tissue keeps its morphology, in patches
REGION_STRENGTH = 1.5
REGION_WAVES = 12
GRAIN = 0.3  # how ragged the borders of regions are
FEWEST_PROGNOSTIC = (3, 0.01)  # a case has this many patches, or this share, of each prognostic morphology
WEIBULL_SHAPE = 1.3
MEDIAN_MONTHS = 36.0  # survival of a case with eta = 0
STUDY_END_MONTHS = 120.0
AGE = (62.0, 10.0)  # years: mean and deviation
AGE_BY_RISK = 0.3  # correlation with eta
PARTS = ("labels", "expression", "splits", "features")  # of a cohort, as its source.json names them
SIMULATED = {"made_by": "survq simulate"}  # what source.json says of a part that was drawn
REFERENCE_CASES = 600  # tell the mean and deviation of h, and the rate of drop-out, of a world


@dataclass(frozen=True, eq=False)
class Latent:
    """What is behind the cases. Nobody sees it."""

    activity: Float[np.ndarray, "case pathway"]
    severity: Float[np.ndarray, "case morphology"]  # how severe the tissue of a morphology looks
    inclination: Float[np.ndarray, "case morphology"]  # log shares, before tissue is laid out


@dataclass(frozen=True, eq=False)
class Section:
    """The tissue on one slide, before it is painted."""

    case: int
    number: int  # within the case, from 1
    cells: Int[np.ndarray, "patch 2"]  # where on the grid of patches, in raster order
    morphology: Int[np.ndarray, " patch"]


class World:
    """A world, fixed by its configuration. `cohort` draws cases from it."""

    def __init__(self, config: WorldConfig):
        self.config = config
        self.patch_space = PatchSpace.draw(config)
        self.transcriptome = Transcriptome.draw(config)
        # scanners differ between sites: patches are 448 pixels wide at 40x, 224 at 20x
        self.magnification = generator(config.world, "scanners").choice([20, 40], config.sites)
        self._calibrate()

    def cohort(self, cases: int, seed: int) -> SimulatedCohort:
        """Draw cases; the same ones for the same world, number of cases and seed."""
        config = self.config

        def random_for(purpose: str) -> np.random.Generator:
            return generator(config.world, seed, purpose)

        site = random_for("sites").integers(0, config.sites, cases)
        latent = self.latent(cases, random_for("latent"))
        sections = self.tissue(latent, random_for("tissue"))
        counts = patch_counts(sections, cases, config.morphologies)
        h, g, eta = self.truth(latent, counts)
        time, event = self.outcome(eta, random_for("outcome"))
        expression = self.expression(latent.activity, site, random_for("expression"))
        age = _age(eta, random_for("age"))
        has_slides, has_expression = self.present(age, random_for("missing"))

        case_ids = pd.Index([f"SIM-{s + 1:02d}-{n + 1:04d}" for n, s in enumerate(site)], name="case_id")
        return SimulatedCohort(
            world=self,
            seed=seed,
            cases=pd.DataFrame(
                {"time": time, "event": event, "site": [f"{s + 1:02d}" for s in site], "age": age}, index=case_ids
            ),
            truth=pd.DataFrame(
                {"eta": eta, "h": h, "g": g, "has_slides": has_slides, "has_expression": has_expression},
                index=case_ids,
            ),
            expression=pd.DataFrame(expression, index=case_ids, columns=list(self.transcriptome.genes))[has_expression],
            latent=latent,
            site=site,
            shares=counts / counts.sum(axis=1, keepdims=True),
            sections={
                f"{case_ids[section.case]}-01Z-00-DX{section.number}": section
                for section in sections
                if has_slides[section.case]
            },
        )

    def latent(self, cases: int, random: np.random.Generator) -> Latent:
        config, transcriptome = self.config, self.transcriptome
        of_block = random.standard_normal((cases, transcriptome.block.max() + 1))[:, transcriptome.block]
        own = random.standard_normal((cases, config.pathways))
        together = config.pathway_correlation
        activity = np.sqrt(together) * of_block + np.sqrt(1 - together) * own

        other = (1 - len(PROGNOSTIC) * config.prognostic_share) / (config.morphologies - len(PROGNOSTIC))
        typical = np.full(config.morphologies, other)
        typical[list(PROGNOSTIC)] = config.prognostic_share
        inclination = np.log(typical) + SHARE_SPREAD * random.standard_normal((cases, config.morphologies))
        inclination[:, PROGNOSTIC[0]] += SHARE_SPREAD * CROSSTALK * activity[:, transcriptome.planted[0]]
        return Latent(activity, random.standard_normal((cases, config.morphologies)), inclination)

    def tissue(self, latent: Latent, random: np.random.Generator) -> list[Section]:
        """The sections of all cases, those of a case one after another."""
        config = self.config
        sections = []
        for case, inclination in enumerate(latent.inclination):
            jitter = random.uniform(-config.patch_jitter, config.patch_jitter)
            patches = round(config.patches * (1 + jitter))
            slides = 1 + random.choice(len(SLIDES_A_CASE), p=SLIDES_A_CASE)
            sizes = 1 + random.multinomial(patches - slides, random.dirichlet(np.full(slides, 5.0)))
            cells = [tissue_cells(size, random) for size in sizes.tolist()]
            pull = np.concatenate([inclination + morphology_pull(c, config.morphologies, random) for c in cells])
            morphology = _with_prognostic_patches(pull.argmax(axis=1), pull)
            parts = np.split(morphology, sizes.cumsum()[:-1])
            sections += [Section(case, n, c, m) for n, (c, m) in enumerate(zip(cells, parts, strict=True), start=1)]
        return sections

    def truth(
        self, latent: Latent, counts: Int[np.ndarray, "case morphology"]
    ) -> tuple[Float[np.ndarray, " case"], Float[np.ndarray, " case"], Float[np.ndarray, " case"]]:
        """h, g and eta, where `counts` are the patches of each morphology that the slides show."""
        config = self.config
        h = (self._histology(latent, counts) - self.histology_mean) / self.histology_deviation
        g = latent.activity[:, self.transcriptome.planted] @ self.transcriptome.weight
        eta = config.effect_histology * h + config.effect_genomics * g + config.effect_interaction * h * g
        return h, g, eta

    def outcome(
        self, eta: Float[np.ndarray, " case"], random: np.random.Generator
    ) -> tuple[Float[np.ndarray, " case"], Bool[np.ndarray, " case"]]:
        """The time in months at which a case was last heard of, and whether that was its death."""
        death = time_of_death(eta, random)
        dropout = random.exponential(size=len(eta)) / self.dropout_rate
        last = np.minimum(dropout, STUDY_END_MONTHS)
        one_day = 0.03
        return np.maximum(np.minimum(death, last), one_day), death <= last

    def expression(
        self,
        activity: Float[np.ndarray, "case pathway"],
        site: Int[np.ndarray, " case"],
        random: np.random.Generator,
    ) -> Float[np.ndarray, "case gene"]:
        """Log expression, float32."""
        genes = self.transcriptome
        noise = self.config.gene_noise * random.standard_normal((len(activity), len(genes.genes)))
        values = genes.gene_mean + genes.gene_scale * (activity @ genes.loading + noise) + genes.site_shift[site]
        return values.astype(np.float32)

    def present(
        self, age: Float[np.ndarray, " case"], random: np.random.Generator
    ) -> tuple[Bool[np.ndarray, " case"], Bool[np.ndarray, " case"]]:
        """Which cases have slides, and which have expression: the wanted shares lack them, and no case lacks both."""
        slope = self.config.missing_by_age * (age - AGE[0]) / AGE[1]
        without_slides = _highest(slope + random.logistic(size=len(age)), self.config.missing_slides)
        odds = np.where(without_slides, -np.inf, slope + random.logistic(size=len(age)))
        return ~without_slides, ~_highest(odds, self.config.missing_expression)

    def paint(
        self,
        morphology: Int[np.ndarray, " patch"],
        severity: Float[np.ndarray, " morphology"],
        site: int,
        random: np.random.Generator,
    ) -> np.ndarray:
        """The features of a slide's patches: (patch, feature), float16."""
        config, space = self.config, self.patch_space

        def noise(*shape: int) -> np.ndarray:
            return random.standard_normal(shape, dtype=np.float32)

        seen = space.centroids + config.severity_norm * severity[:, None] * space.severity_axis
        shift = space.site_shift[site] + config.stain_shift * noise(config.width)
        of_patch = noise(len(morphology), len(space.nuisance)) @ space.nuisance.astype(np.float32)
        return ((seen + shift).astype(np.float32)[morphology] + of_patch + noise(*of_patch.shape)).astype(np.float16)

    def _histology(self, latent: Latent, counts: Int[np.ndarray, "case morphology"]) -> Float[np.ndarray, " case"]:
        """h, before it is standardised: a difference of log shares, or of severities."""
        worse, better = PROGNOSTIC
        shown = np.log(counts + 0.5) if self.config.histology == "share" else latent.severity
        return shown[:, worse] - shown[:, better]

    def _calibrate(self) -> None:
        """Set the scale of h, and the rate of drop-out that censors the wanted share, on cases of no cohort."""
        random = generator(self.config.world, "reference")
        latent = self.latent(REFERENCE_CASES, random)
        counts = patch_counts(self.tissue(latent, random), REFERENCE_CASES, self.config.morphologies)
        histology = self._histology(latent, counts)
        self.histology_mean, self.histology_deviation = float(histology.mean()), float(histology.std())

        _, _, eta = self.truth(latent, counts)
        death = time_of_death(eta.repeat(20), random)
        # a case is censored when it outlives the study, or when exponential / rate < death
        needed = np.where(death > STUDY_END_MONTHS, 0.0, random.exponential(size=len(death)) / death)
        self.dropout_rate = float(np.quantile(needed, self.config.censoring))
        if self.dropout_rate == 0:
            outlive = (death > STUDY_END_MONTHS).mean()
            raise UsageError(
                f"censoring={self.config.censoring} cannot be had: {outlive:.2f} of the cases outlive the study. "
                f"Ask for more censoring, or for smaller effects."
            )


@dataclass(frozen=True, eq=False)
class SimulatedCohort:
    """Cases, and the truth about them. Tables are indexed by case_id; arrays have the same order."""

    world: World
    seed: int
    cases: pd.DataFrame  # time (months), event, site, age
    truth: pd.DataFrame  # eta, h, g, has_slides, has_expression
    expression: pd.DataFrame  # the cases that have it, case_id x gene, float32
    latent: Latent
    site: Int[np.ndarray, " case"]
    shares: Float[np.ndarray, "case morphology"]  # of a case's patches, also where its slides are missing
    sections: dict[str, Section]  # slide_id -> its tissue; cases without slides are absent

    @property
    def planted_pathways(self) -> tuple[str, ...]:
        return tuple(self.world.transcriptome.pathways.names[pathway] for pathway in self.world.transcriptome.planted)

    def slides(self) -> Iterator[Slide]:
        """Paint the slides one by one; the same ones each time."""
        return (self.slide(slide_id) for slide_id in self.sections)

    def slide(self, slide_id: str) -> Slide:
        section = self.sections[slide_id]
        site = int(self.site[section.case])
        magnification = int(self.world.magnification[site])
        patch_size = 224 * magnification // 20
        random = generator(self.world.config.world, self.seed, "patches", slide_id)
        return Slide(
            slide_id=slide_id,
            case_id=str(self.cases.index[section.case]),
            features=self.world.paint(section.morphology, self.latent.severity[section.case], site, random),
            coordinates=(section.cells * patch_size).astype(np.int32),
            patch_size=patch_size,
            magnification=float(magnification),
            encoder="simulated",
        )

    def oracle(self, case_ids: Sequence[str] | None = None) -> dict[str, float]:
        """The C-index, on these cases or all, of one who knows eta; h alone; g alone; and both, but not their product.

        The oracle also knows what a case's missing modality would have told.
        """
        rows = self.truth.index if case_ids is None else list(case_ids)
        truth, cases = self.truth.loc[rows], self.cases.loc[rows]
        config = self.world.config
        risks = {
            "eta": truth["eta"],
            "h": truth["h"],
            "g": truth["g"],
            "additive": config.effect_histology * truth["h"] + config.effect_genomics * truth["g"],
        }
        time, event = cases["time"].to_numpy(), cases["event"].to_numpy()
        return {name: concordance_index(risk.to_numpy(), time, event) for name, risk in risks.items()}


def write_simulated(
    root: str | Path,
    world: str | WorldConfig = "demo",
    cases: int | None = None,
    seed: int = 0,
    name: str = "SIM",
    *,
    held_out: int | None = None,
) -> Path:
    """Draw a cohort and write it as a data folder's cohort `name`; return that folder.

    `world` is a preset's name or a configuration; `cases` and `held_out` replace its own numbers. With cases held out,
    the splits have one fold (repeat 0, fold 0): the first `cases` train, the rest validate. All cohorts of one data
    folder share its pathways, so they should come from one world. Beside the tables of any cohort there are

        truth.parquet       case_id, eta, h, g, has_slides, has_expression
        simulation.json     config, seed, a hash of the simulator, what was planted, and the oracle's C-index: over the
                            validation cases of a fold, mean over folds ("oracle", comparable to a model's), and over
                            all cases

    A simulated cohort that is there is replaced. Raises DataError where anything else is: it would be lost.
    """
    if isinstance(world, str):
        if world not in PRESETS:
            raise UsageError(f"No preset {world!r}; expected one of {', '.join(PRESETS)}, or a WorldConfig.")
        world = PRESETS[world]
    config = replace(
        world,
        cases=world.cases if cases is None else cases,
        held_out=world.held_out if held_out is None else held_out,
    )
    folder = cohort_folder(root, name)
    parts = read_source(folder)
    if (there := folder.names()) and not (parts and all(_is_simulated(part) for part in parts.values())):
        raise DataError(
            [
                f"{folder}: holds what was not simulated ({preview(there)}), and would be replaced. "
                f"Fix: give the simulated cohort another name or folder, or move this one away."
            ]
        )
    cohort = World(config).cohort(config.cases + config.held_out, seed)
    folds = _folds(cohort, seed)
    return write_cohort(
        root,
        name,
        cases=cohort.cases,
        expression=cohort.expression,
        slides=cohort.slides(),
        splits=_splits(folds),
        gene_sets={PATHWAYS: cohort.world.transcriptome.pathways},
        attachments={
            "truth.parquet": parquet(cohort.truth.reset_index()),
            "simulation.json": json.dumps(_account(cohort, folds), indent=2).encode(),
            "source.json": json.dumps(dict.fromkeys(PARTS, SIMULATED), indent=1, sort_keys=True).encode(),
        },
    )


def read_simulation(folder: Location) -> dict | None:
    """simulation.json of a cohort whose outcomes are still the drawn ones; None where others were imported since."""
    if not _is_simulated(read_source(folder).get("labels", {})):
        return None
    return json.loads((folder / "simulation.json").read_text())


def simulator() -> str:
    """A hash of the code that draws: a cohort that another one drew may differ."""
    code = "".join(inspect.getsource(module) for module in (sys.modules[__name__], worlds, streams))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _is_simulated(part: dict) -> bool:
    """Whether a part of a cohort was drawn, by what its books say: an import notes there what it put in its place."""
    return part == SIMULATED


def tissue_cells(patches: int, random: np.random.Generator) -> Int[np.ndarray, "patch 2"]:
    """One to three wobbly pieces of tissue on a grid: the cells (x, y) that they cover, in raster order."""
    pieces = random.integers(1, 4)
    radius = np.sqrt(patches / (pieces * np.pi))
    centres = random.uniform(-2, 2, (pieces, 2)) * radius
    phase = random.uniform(0, 2 * np.pi, (pieces, 2))
    reach = int(np.ceil(3.6 * radius)) + 2
    y, x = (axis.ravel() for axis in np.mgrid[-reach : reach + 1, -reach : reach + 1])

    dx, dy = x[:, None] - centres[:, 0], y[:, None] - centres[:, 1]  # (cell, piece)
    angle = np.arctan2(dy, dx)
    edge = 1 + 0.2 * np.cos(3 * angle + phase[:, 0]) + 0.15 * np.cos(5 * angle + phase[:, 1])
    depth = (edge - np.hypot(dx, dy) / radius).max(axis=1)  # above 0 inside a piece
    inside = np.sort(np.argpartition(-depth, patches - 1)[:patches])
    margin = random.integers(0, 40, 2)
    return np.stack([x, y], axis=1)[inside] + reach + margin


def morphology_pull(
    cells: Int[np.ndarray, "patch 2"], morphologies: int, random: np.random.Generator
) -> Float[np.ndarray, "patch morphology"]:
    """How strongly each place of a slide tends to each morphology: smooth waves, so that regions form, and grain."""
    frequency = random.standard_normal((2, morphologies * REGION_WAVES)) / REGION_CELLS
    phase = random.uniform(0, 2 * np.pi, morphologies * REGION_WAVES)
    waves = np.cos(cells @ frequency + phase).reshape(len(cells), morphologies, REGION_WAVES)
    regions = np.sqrt(2 / REGION_WAVES) * waves.sum(axis=2)  # deviation 1
    return REGION_STRENGTH * regions + GRAIN * random.gumbel(size=regions.shape)


def _with_prognostic_patches(
    morphology: Int[np.ndarray, " patch"], pull: Float[np.ndarray, "patch morphology"]
) -> Int[np.ndarray, " patch"]:
    """Turn the likeliest other patches into prognostic ones where a case has too few: no query can read nothing."""
    fewest = max(FEWEST_PROGNOSTIC[0], int(FEWEST_PROGNOSTIC[1] * len(morphology)))
    for prognostic in PROGNOSTIC:
        lacking = fewest - (morphology == prognostic).sum()
        if lacking > 0:
            commonest = np.bincount(morphology).argmax()  # may be the other prognostic one, and all there is
            free = np.flatnonzero(~np.isin(morphology, PROGNOSTIC) | (morphology == commonest))
            morphology[free[np.argsort(-pull[free, prognostic])[:lacking]]] = prognostic
    return morphology


def patch_counts(sections: Sequence[Section], cases: int, morphologies: int) -> Int[np.ndarray, "case morphology"]:
    """How many patches of each morphology the sections of each case show."""
    case = np.concatenate([np.full(len(section.morphology), section.case) for section in sections])
    morphology = np.concatenate([section.morphology for section in sections])
    return np.bincount(case * morphologies + morphology, minlength=cases * morphologies).reshape(cases, morphologies)


def time_of_death(eta: Float[np.ndarray, " case"], random: np.random.Generator) -> Float[np.ndarray, " case"]:
    """Months, from a Weibull distribution whose log hazard is shifted by eta."""
    exponential = -np.log1p(-random.uniform(size=len(eta)))
    return MEDIAN_MONTHS * (exponential / (np.log(2) * np.exp(eta))) ** (1 / WEIBULL_SHAPE)


def _age(eta: Float[np.ndarray, " case"], random: np.random.Generator) -> Float[np.ndarray, " case"]:
    """Years. The old are sicker, but age does nothing by itself."""
    risk = (eta - eta.mean()) / max(eta.std(), 1e-9)
    standard = AGE_BY_RISK * risk + np.sqrt(1 - AGE_BY_RISK**2) * random.standard_normal(len(eta))
    return np.round(AGE[0] + AGE[1] * standard, 1)


def _highest(score: Float[np.ndarray, " case"], share: float) -> Bool[np.ndarray, " case"]:
    """Which are the highest, a share of all, rounded."""
    chosen = np.zeros(len(score), dtype=bool)
    chosen[np.argsort(-score, kind="stable")[: round(share * len(score))]] = True
    return chosen


def _folds(cohort: SimulatedCohort, seed: int) -> list[Fold]:
    config, case_ids = cohort.world.config, tuple(cohort.cases.index)
    if config.held_out:
        return [Fold(0, 0, case_ids[: config.cases], case_ids[config.cases :])]
    return make_folds(cohort.cases, k=config.folds, seed=seed)


def _splits(folds: Sequence[Fold]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (fold.repeat, fold.index, case, role)
            for fold in folds
            for role, cases in (("training", fold.training), ("validation", fold.validation))
            for case in cases
        ],
        columns=["repeat", "fold", "case_id", "role"],
    )


def _account(cohort: SimulatedCohort, folds: Sequence[Fold]) -> dict:
    """The contents of simulation.json."""
    of_folds = pd.DataFrame([cohort.oracle(fold.validation) for fold in folds])
    return {
        "config": asdict(cohort.world.config),
        "seed": cohort.seed,
        "simulator": simulator(),
        "prognostic_morphologies": list(PROGNOSTIC),
        "planted_pathways": dict(
            zip(cohort.planted_pathways, cohort.world.transcriptome.weight.round(4).tolist(), strict=True)
        ),
        "oracle": _numbers(of_folds.mean().to_dict()),
        "oracle_all_cases": _numbers(cohort.oracle()),
    }


def _numbers(values: dict) -> dict:
    """JSON knows no NaN; a C-index that does not exist becomes null."""
    return {str(key): None if np.isnan(value) else round(float(value), 6) for key, value in values.items()}
