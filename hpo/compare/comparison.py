"""The comparison of a whole study, from its table of trials."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hpo.compare.alarms import alarms
from hpo.compare.arms_table import arms_table, order_agreement
from hpo.compare.budget import Budget, budget
from hpo.compare.cost import cost
from hpo.compare.intervals import Interval
from hpo.compare.limits import kept_arms, limits_table
from hpo.compare.paper_figure4 import figure4
from hpo.compare.ranks import ranks
from hpo.compare.scores import scored_confirm, scored_search, scored_validation
from hpo.compare.scoring import Scoring
from hpo.compare.selected_epochs import selected_range
from hpo.compare.shortlist import shortlist
from hpo.compare.surface import Surface, fit_surface
from hpo.compare.trial_table import best_trial, static_points
from hpo.compare.tuning import PHASE as TUNE
from hpo.compare.tuning import Sets, Tuning, tuning
from hpo.compare.verdicts import Verdict, seed_noise, verdict
from hpo.compare.weight_distances import distances, region
from hpo.compare.winner import Winner, best_version, gain_over, winner
from hpo.core.arm import OUTSIDE, SEARCHED, Arm


@dataclass(frozen=True)
class Comparison:
    """Everything that the report shows.

    Attributes:
        tasks: names; ``scoring``: how each is measured.
        margin: regret that counts as equivalent; ``random_points``: true if the static points were drawn at random.
        baseline: the arm of the weights that the user trains with today; empty if the study names none.
        searched: true if the study has a static search. Without one, regrets are against the baseline or equal
            weights.
        swept: true if the study has an alpha sweep.
        search: the trials on the search seed with ``score`` (validation), best first (`hpo.compare.scores`).
        further: the other trials that read no test split, with ``score`` (validation): those on the seeds of the
            shortlist's race, and those that choose arguments.
        confirm: the trials on the confirm seeds with ``score_val`` and ``score_test``.
        arms: one row per confirm arm, best validation score first: ``arm, kind, recipe, alpha, seeds, score_val,
            score_test, low, high, score_seeds`` (of score_test), ``regret, regret_low, regret_high, regret_seeds,
            verdict`` (of this arm alone against the best static arm, not corrected for selection), ``recommended,
            best_static, chosen`` (share of resamples in which it is the best of its side), ``gap`` (test against
            train), ``dominated_by``, ``misses`` (the tasks whose limits it misses) and for each task
            ``train/<task>``, ``val/<task>``, ``test/<task>`` (means over seeds) and ``w/<task>``.
        verdict: on the best GradNorm arm against the best static arm.
        noise: sigma of a validation score from seed to seed, and its degrees of freedom.
        region: the static points that cannot be distinguished from the best one by one seed, rows of ``search``.
        shortlist: the arms that need no search, compared on validation (`hpo.compare.shortlist.shortlist`).
        distances: for each recipe and average E_t[w] of the best alpha, its `Distance` to the best static arm and to
            the region, and to the weights known to be best.
        ranks: for each recipe the rank of its best run among the static points, on the search seed.
        surface: the response surface over the static points.
        budget: expected best of k static points, and the k that matches GradNorm.
        figure4: Spearman's rho of the paper's Figure 4 and its percentile among reference points.
        agreement: Spearman's rho of the arms' validation and test scores.
        cost: for each way to find weights its trials, steps and seconds, and their ratio to the static search.
        baseline_gain: test score of the baseline minus that of the recommended arm, paired by seed: above 0 if the
            recommended arm is better; not corrected for selection bias. In a tuned study, of the baseline with its
            own best arguments.
        recommended: the arm with the best fixed weights, chosen on validation among those that keep the limits, or
            among all if none does; empty if there is none.
        limits: for each arm and limited task, by how much it is behind (`hpo.compare.limits.limits_table`).
        winner: the best arm of all that can train a network, chosen on validation.
        best_epochs: the earliest and the latest epoch that is the best on validation of a confirm trial, where each
            trial counts at that; ``None`` if it counts at its last.
        tuning: the arms with several sets of the problem's arguments.
        alarms: facts that limit how far the results can be trusted.
    """

    tasks: tuple[str, ...]
    scoring: Scoring
    margin: float
    random_points: bool
    baseline: str
    searched: bool
    swept: bool
    search: pd.DataFrame
    further: pd.DataFrame
    confirm: pd.DataFrame
    arms: pd.DataFrame
    verdict: Verdict
    noise: tuple[float, float]
    region: pd.DataFrame
    shortlist: pd.DataFrame
    distances: pd.DataFrame
    ranks: pd.DataFrame
    surface: Surface
    budget: Budget
    figure4: pd.DataFrame
    agreement: float
    cost: pd.DataFrame
    recommended: str
    baseline_gain: Interval
    limits: pd.DataFrame
    winner: Winner
    best_epochs: tuple[int, int] | None
    tuning: Tuning
    alarms: tuple[str, ...]

    def misses(self, arm: str) -> tuple[str, ...]:
        """Return the tasks whose limits an arm misses."""
        own = self.limits[self.limits["arm"] == arm]
        return tuple(own.loc[~own["kept"].astype(bool), "task"])


def compare(
    trials: pd.DataFrame,
    scoring: Scoring,
    margin: float,
    random_points: bool = False,
    baseline: str = "",
    searched: bool = True,
    swept: bool = True,
    sets: Sets | None = None,
) -> Comparison:
    """Compare the arms of a study; of an unfinished study, as far as its trials allow.

    Args:
        trials: the table described in `hpo.compare`.
        scoring: how each task is measured, in the problem's order.
        margin: regret in percent of score that counts as equivalent.
        random_points: true if the static points were drawn at random and so are a sample of all points.
        baseline: the arm of the weights of today; empty if there is none.
        searched: true if the study has a static search.
        swept: true if it has an alpha sweep.
        sets: of a study that tunes arguments of the problem (`hpo.compare.tuning`).
    """
    tasks = tuple(scoring)
    choosing = trials[trials["phase"] != TUNE]
    search, confirm = scored_search(choosing, scoring), scored_confirm(trials, scoring)
    scored = scored_validation(trials, scoring)
    limits = limits_table(confirm, scoring)
    kept = kept_arms(limits, scoring)
    rivals = SEARCHED if searched else (Arm.parse(baseline).kind if baseline else "equal",)
    found = verdict(confirm, margin, rivals, kept)
    noise = seed_noise(confirm)
    arms = arms_table(confirm, scoring, margin, found, limits)
    best_point = best_trial(static_points(search)) if searched else None
    static = found.static or ("" if best_point is None else str(best_point["arm"]))
    points = search if searched else search[~search["kind"].isin(SEARCHED)]  # equal weights alone are no search
    equals = region(search, static, noise)
    recommended = next(iter(arms.loc[arms["recommended"], "arm"]), "")
    tuned = tuning(trials, confirm, scoring, margin, rivals, kept, found, sets or {})
    return Comparison(
        tasks=tasks,
        scoring=scoring,
        margin=margin,
        random_points=random_points,
        baseline=baseline,
        searched=searched,
        swept=swept,
        search=search,
        further=scored[~scored["identity"].isin(search["identity"])],
        confirm=confirm,
        arms=arms,
        verdict=found,
        noise=noise,
        region=equals,
        shortlist=shortlist(trials, scoring),
        distances=distances(search, arms, found.static, equals, tasks),
        ranks=ranks(points, noise, random_points),
        surface=fit_surface(points, tasks),
        budget=budget(points if swept else points[points["kind"] != "gradnorm"]),  # there is no sweep to match
        figure4=figure4(points, tasks),
        agreement=order_agreement(arms[~arms["kind"].isin(OUTSIDE)]),
        cost=cost(trials, searched, swept),
        recommended=recommended,
        baseline_gain=gain_over(confirm, recommended, best_version(confirm, baseline)),
        limits=limits,
        winner=winner(confirm, recommended, kept),
        best_epochs=selected_range(confirm),
        tuning=tuned,
        alarms=(*alarms(trials, search, confirm, arms, equals, limits, scoring), *tuned.alarms),
    )
