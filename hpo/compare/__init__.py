"""The comparison: statistics on DataFrames, pure functions, each with its formula and source.

Input is a table of trials (`TRIAL_COLUMNS`), one row per trial:

=====================  ==================================================================================
``identity``           hash of the trial's config
``arm``                ``static/07``, ``equal``, ``gradnorm/robust/alpha=0.5``, ``gradnorm_static/robust/tail``
``phase``              ``references``, ``static``, ``sweep`` (these three: search seed), ``confirm``
``kind``               first part of the arm's name
``recipe``, ``alpha``  of GradNorm arms, else empty and NaN
``seed``, ``status``   ``finished``, ``stopped`` (early, by the search), ``diverged``, ``failed``,
                       ``refused`` (its method cannot train with losses below 0)
``epoch``              the epoch whose metrics count: the best on validation; NaN for the last
``steps``, ``seconds`` length of its training: optimizer steps, measured seconds
``alarms``             alarms of the trial itself, one per line
``val/<task>``         metric on the validation split; ``test/<task>`` and ``train/<task>`` on the others, NaN
                       outside confirm
``arithmetic/<task>``  E_t[w]; also ``geometric/``, ``tail/``, ``geometric_tail/``; the weights themselves if fixed
=====================  ==================================================================================
"""

from hpo.compare.alarms import kind_of
from hpo.compare.arms_table import dominated_by
from hpo.compare.budget import Budget, best_of_k, expected_best, match
from hpo.compare.comparison import Comparison, compare
from hpo.compare.intervals import Interval, interval, judge, regret, seeds_needed
from hpo.compare.paper_figure4 import figure4
from hpo.compare.ranks import clopper_pearson
from hpo.compare.scores import reference_arms, reference_metrics, score, scored_search, scored_validation
from hpo.compare.scoring import Scoring, TaskScoring
from hpo.compare.selected_epochs import at_selected_epochs, selected_range
from hpo.compare.surface import Surface, fit_surface
from hpo.compare.trial_table import (
    TRIAL_COLUMNS,
    Vector,
    best_runs,
    best_trial,
    static_points,
    weight_columns,
    weights_of,
)
from hpo.compare.verdicts import Selection, Verdict, seed_noise, selection
from hpo.compare.weight_distances import Distance, closed, distance, distances_to
from hpo.compare.winner import Winner, best_version, gain_over

__all__ = [
    "TRIAL_COLUMNS",
    "Budget",
    "Comparison",
    "Distance",
    "Interval",
    "Scoring",
    "Selection",
    "Surface",
    "TaskScoring",
    "Vector",
    "Verdict",
    "Winner",
    "at_selected_epochs",
    "best_of_k",
    "best_runs",
    "best_trial",
    "best_version",
    "clopper_pearson",
    "closed",
    "compare",
    "distance",
    "distances_to",
    "dominated_by",
    "expected_best",
    "figure4",
    "fit_surface",
    "gain_over",
    "interval",
    "judge",
    "kind_of",
    "match",
    "reference_arms",
    "reference_metrics",
    "regret",
    "score",
    "scored_search",
    "scored_validation",
    "seed_noise",
    "seeds_needed",
    "selected_range",
    "selection",
    "static_points",
    "weight_columns",
    "weights_of",
]
