"""Cohorts with a known truth, drawn from a simulated world. NumPy only; every draw depends only on seeds.

A case is made in this order, with one function per step, from top to bottom:

    latent state      activities of its pathways, severities and log shares of its morphologies
    tissue            one to three slides with pieces of tissue, one morphology per patch (tissue.py)
    truth             eta = a h + b g + c h g, the log hazard
    outcome           Weibull time of death and end of follow-up, whichever is earlier
    covariates        age, sex and stage; none has an effect of its own
    expression        genes, computed from the activities
    missing           cases without slides or without expression
    patch features    painted on request, never all in memory at once

h is the contribution of histology to the log hazard and g that of the genes, both with mean 0 and deviation 1 over the
world's cases. h is computed from the realised shares of the patches, not from the inclinations from which they were
drawn, so that the truth can be learned from the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from survq.data.streams import generator
from survq.data.write import Slide
from survq.evaluation.concordance import concordance_index
from survq.exits import UsageError
from survq.simulation.tissue import Section, draw_sections, patch_counts
from survq.simulation.worlds import PROGNOSTIC, PatchSpace, Transcriptome, WorldConfig

SHARE_SPREAD = 0.8  # deviation of a case's inclination (log share) to a morphology
CROSSTALK = 0.3  # effect of the first planted pathway on the inclination to the first prognostic morphology
WEIBULL_SHAPE = 1.3
MEDIAN_MONTHS = 36.0  # survival of a case with eta = 0
STUDY_END_MONTHS = 120.0
AGE = (62.0, 10.0)  # years: mean and deviation
AGE_BY_RISK = 0.3  # correlation with eta
STAGE_BY_RISK = 0.6  # correlation with eta before it is cut into stages 1 to 4
STAGE_EDGES = (-0.8, 0.2, 1.0)  # deviations from the mean
UNSTAGED = 0.05  # share of cases
REFERENCE_CASES = 600  # from which the mean and deviation of h and the rate of drop-out are computed


@dataclass(frozen=True, eq=False)
class Latent:
    """The latent state of cases, hidden from models."""

    activity: Float[np.ndarray, "case pathway"]
    severity: Float[np.ndarray, "case morphology"]  # how severe the tissue of a morphology looks
    inclination: Float[np.ndarray, "case morphology"]  # log shares, before tissue is laid out


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
        """Draw cases, which depend only on the world, the number of cases and the seed."""
        config = self.config

        def random_for(purpose: str) -> np.random.Generator:
            return generator(config.world, seed, purpose)

        site = random_for("sites").integers(0, config.sites, cases)
        latent = self.latent(cases, random_for("latent"))
        sections = draw_sections(config, latent.inclination, random_for("tissue"))
        counts = patch_counts(sections, cases, config.morphologies)
        h, g, eta = self.truth(latent, counts)
        time, event = self.outcome(eta, random_for("outcome"))
        expression = self.expression(latent.activity, site, random_for("expression"))
        age = _age(eta, random_for("age"))
        sex = random_for("sex").choice(["female", "male"], cases)
        stage = _stage(eta, random_for("stage"))
        has_slides, has_expression = self.present(age, random_for("missing"))

        study = f"SIM{seed}" if seed else "SIM"  # cases of another seed are other patients
        case_ids = pd.Index([f"{study}-{s + 1:02d}-{n + 1:04d}" for n, s in enumerate(site)], name="case_id")
        return SimulatedCohort(
            world=self,
            seed=seed,
            cases=pd.DataFrame(
                {
                    "time": time,
                    "event": event,
                    "site": [f"{s + 1:02d}" for s in site],
                    "age": age,
                    "sex": sex,
                    "stage": stage,
                },
                index=case_ids,
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

    def truth(
        self, latent: Latent, counts: Int[np.ndarray, "case morphology"]
    ) -> tuple[Float[np.ndarray, " case"], Float[np.ndarray, " case"], Float[np.ndarray, " case"]]:
        """h, g and eta; `counts` are the numbers of patches of each morphology on the slides."""
        config = self.config
        h = (self._histology(latent, counts) - self.histology_mean) / self.histology_deviation
        g = latent.activity[:, self.transcriptome.planted] @ self.transcriptome.weight
        eta = config.effect_histology * h + config.effect_genomics * g + config.effect_interaction * h * g
        return h, g, eta

    def outcome(
        self, eta: Float[np.ndarray, " case"], random: np.random.Generator
    ) -> tuple[Float[np.ndarray, " case"], Bool[np.ndarray, " case"]]:
        """Months to death or to the end of follow-up, and whether the case died."""
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
        """Which cases have slides and which have expression, by the configured shares; no case lacks both."""
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
        """h before standardisation: a difference of log shares, or of severities."""
        worse, better = PROGNOSTIC
        shown = np.log(counts + 0.5) if self.config.histology == "share" else latent.severity
        return shown[:, worse] - shown[:, better]

    def _calibrate(self) -> None:
        """Set the scale of h and the rate of drop-out (for the configured censoring), on cases outside all cohorts."""
        random = generator(self.config.world, "reference")
        latent = self.latent(REFERENCE_CASES, random)
        sections = draw_sections(self.config, latent.inclination, random)
        counts = patch_counts(sections, REFERENCE_CASES, self.config.morphologies)
        histology = self._histology(latent, counts)
        self.histology_mean, self.histology_deviation = float(histology.mean()), float(histology.std())

        _, _, eta = self.truth(latent, counts)
        death = time_of_death(eta.repeat(20), random)
        # a case is censored if it outlives the study, or if exponential / rate < death
        needed = np.where(death > STUDY_END_MONTHS, 0.0, random.exponential(size=len(death)) / death)
        self.dropout_rate = float(np.quantile(needed, self.config.censoring))
        if self.dropout_rate == 0:
            outlive = (death > STUDY_END_MONTHS).mean()
            raise UsageError(
                f"censoring={self.config.censoring} cannot be reached: {outlive:.2f} of the cases outlive the study. "
                f"Fix: set more censoring or smaller effects."
            )


@dataclass(frozen=True, eq=False)
class SimulatedCohort:
    """Cases and their truth. Tables are indexed by case_id; arrays have the same order."""

    world: World
    seed: int
    cases: pd.DataFrame  # time (months), event, site, age, sex, stage
    truth: pd.DataFrame  # eta, h, g, has_slides, has_expression
    expression: pd.DataFrame  # the cases that have it, case_id x gene, float32
    latent: Latent
    site: Int[np.ndarray, " case"]
    shares: Float[np.ndarray, "case morphology"]  # of a case's patches, also if its slides are missing
    sections: dict[str, Section]  # slide_id -> its tissue; cases without slides are absent

    @property
    def planted_pathways(self) -> tuple[str, ...]:
        return tuple(self.world.transcriptome.pathways.names[pathway] for pathway in self.world.transcriptome.planted)

    def slides(self) -> Iterator[Slide]:
        """Paint the slides one by one; every call yields the same slides."""
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
        """C-indices of the true eta, of h, of g, and of their weighted sum without the product, on these cases or all.

        h and g are known also for cases that lack the modality.
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


def time_of_death(eta: Float[np.ndarray, " case"], random: np.random.Generator) -> Float[np.ndarray, " case"]:
    """Months, from a Weibull distribution whose log hazard is shifted by eta."""
    exponential = -np.log1p(-random.uniform(size=len(eta)))
    return MEDIAN_MONTHS * (exponential / (np.log(2) * np.exp(eta))) ** (1 / WEIBULL_SHAPE)


def _age(eta: Float[np.ndarray, " case"], random: np.random.Generator) -> Float[np.ndarray, " case"]:
    """Years."""
    return np.round(AGE[0] + AGE[1] * _correlated(eta, AGE_BY_RISK, random), 1)


def _stage(eta: Float[np.ndarray, " case"], random: np.random.Generator) -> Float[np.ndarray, " case"]:
    """1 to 4, NaN for a few cases: a noisy and coarse measurement of the risk."""
    stage = 1.0 + np.searchsorted(STAGE_EDGES, _correlated(eta, STAGE_BY_RISK, random))
    return np.where(random.uniform(size=len(eta)) < UNSTAGED, np.nan, stage)


def _correlated(
    eta: Float[np.ndarray, " case"], correlation: float, random: np.random.Generator
) -> Float[np.ndarray, " case"]:
    """Values with mean 0, deviation 1 and this correlation with eta."""
    risk = (eta - eta.mean()) / max(eta.std(), 1e-9)
    return correlation * risk + np.sqrt(1 - correlation**2) * random.standard_normal(len(eta))


def _highest(score: Float[np.ndarray, " case"], share: float) -> Bool[np.ndarray, " case"]:
    """A mask of the highest scores: the given share of all, rounded."""
    chosen = np.zeros(len(score), dtype=bool)
    chosen[np.argsort(-score, kind="stable")[: round(share * len(score))]] = True
    return chosen
