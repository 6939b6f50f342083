"""Report data from made-up but structurally true tables of trials, run through the real `compare`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpo.compare import Scoring, TaskScoring, compare
from hpo.core.trial import AVERAGES
from hpo.report import ReportData

RECIPES = ("paper", "robust")
RATES = (0.0005, 0.01)
ALPHAS = (0.0, 0.25, 0.5, 1.2, 1.9, 3.0)
NAMES = ("income", "never_married", "age", "hours", "region", "sector", "children")
METRICS = ("AUC", "AUC", "MAE", "RMSE", "error rate", "error rate", "MAE")
STEPS = 1170
SHIFT = {"better": -4.0, "equivalent": 0.0, "worse": 4.0, "inconclusive": 4.0, "none": 0.0}


@dataclass
class Builder:
    """A study that came out in a certain way.

    Args:
        T: number of tasks.
        verdict: what the comparison should find.
        seeds: confirm seeds.
        points: static points beside equal weights.
        phases: how far the study came.
        diverged: arms that diverged, on ``diverged_seeds``, of which 0 is the search seed.
        margin: of equivalence.
        tasks: their names.
        slow_sweep: how many times longer GradNorm's steps take.
        winner: an arm that beats the others by ``lead`` percentage points; empty for none.
        lead: on both splits, in every seed.
        tuned: whether three arms are trained with three learning rates, 0.002 being the problem's own.
    """

    T: int = 3
    verdict: str = "equivalent"
    seeds: int = 5
    points: int = 24
    phases: tuple[str, ...] = ("references", "static", "sweep", "confirm")
    diverged: tuple[str, ...] = ("static/04",)
    diverged_seeds: tuple[int, ...] = (0, 2)
    margin: float = 1.0
    tasks: tuple[str, ...] = ()
    slow_sweep: float = 1.12
    winner: str = ""
    lead: float = 3.0
    tuned: bool = False

    def __post_init__(self) -> None:
        self.tasks = self.tasks or NAMES[: self.T]
        self.random = np.random.default_rng(7 + self.T)
        self.scoring = Scoring({task: TaskScoring(-1 if i < 2 else 1) for i, task in enumerate(self.tasks)})
        self.base = np.where(np.arange(self.T) < 2, 0.94, 12.0)
        self.best = _centred(np.linspace(-3.5, 3.5, self.T) if self.T > 2 else np.array([2.0, -2.0]))

    def data(self) -> ReportData:
        """Everything a report is made from."""
        trials = self.trials()
        sets = {"": 0.002} | {f"learning_rate={rate:g}": rate for rate in RATES}
        named = {label: {"learning_rate": rate} for label, rate in sets.items()} if self.tuned else None
        comparison = compare(trials, self.scoring, self.margin, sets=named)
        swept = "sweep" in self.phases
        return ReportData(
            study="census-quick",
            comparison=comparison,
            metrics=dict(zip(self.tasks, METRICS, strict=False)),
            trajectories={recipe: self.trajectory(recipe) for recipe in RECIPES} if swept else {},
            provenance={
                "study file": f"name: census-quick\nproblem: census\nseeds: {self.seeds}\nmargin: {self.margin}\n",
                "problem": "census (preset small)",
                "data hash": "4f1c2a9be07d3355",
                "seeds": f"search 0; confirm 1 to {self.seeds}",
                "gradsweep": "0.1.0",
                "torch": "2.9.1",
                "ray": "2.52.0",
                "mlflow": "3.17.0",
                "machine": "16 x AMD EPYC 7B13, 1 x NVIDIA H100",
                "tracking": "http://127.0.0.1:5000",
            },
            run_links={
                identity: f"http://127.0.0.1:5000/#/experiments/1/runs/{identity}" for identity in trials["identity"]
            },
            unfinished=trials[trials["status"] != "finished"],
        )

    def trials(self) -> pd.DataFrame:
        """The table that `compare` reads."""
        rows = [self._row("references", f"single_task/{task}", 0) for task in self.tasks]
        rows.append(self._row("references", "uncertainty", 0, self._near(1.4)))
        if "static" in self.phases:
            rows += [self._row("static", arm, 0, w) for arm, w in self._static().items()]
        if "sweep" in self.phases:
            rows += [self._run("sweep", recipe, alpha, 0) for recipe in RECIPES for alpha in ALPHAS]
        if "confirm" in self.phases:
            rows += self._confirm()
        if self.tuned:
            rows += self._tuned()
        return pd.DataFrame(rows)

    def _tuned(self) -> list[dict[str, object]]:
        """The trials of the tune phase, and confirm trials at the last rate, which is better than the others."""
        static = self._static()
        weights = {"equal": static["equal"], "static/01": static["static/01"]}
        weights["gradnorm/robust/alpha=0.25"] = _closed(np.exp(self._average("robust")))
        rows = []
        for place, rate in enumerate(RATES):
            for arm, w in weights.items():
                alpha = 0.25 if arm.startswith("gradnorm") else np.nan
                key = f"{arm}@learning_rate={rate:g}"
                rows.append(self._row("tune", key, 0, w, alpha, better=place))
                if place:
                    rows += [
                        self._row("confirm", key, seed, w, alpha, better=place) for seed in range(1, self.seeds + 1)
                    ]
        return rows

    def trajectory(self, recipe: str, steps: int = STEPS) -> pd.DataFrame:
        """w, G, r, L over steps; the paper's recipe starts at 1, the robust one near its end."""
        t = np.linspace(0, 1, steps)[:, None]
        end = self._average(recipe)
        start = np.zeros(self.T) if recipe == "paper" else 0.7 * end
        wiggle = np.cumsum(self.random.normal(0, 0.02, (steps, self.T)), axis=0)
        w = _closed(np.exp(end + (start - end) * np.exp(-6 * t) + wiggle - wiggle.mean(axis=1, keepdims=True)))
        columns = {"w": w, "G": 0.4 + 0 * w, "r": 1 + 0.1 * wiggle, "L": np.exp(-t) * np.exp(-self.best)}
        tables = [pd.DataFrame(v, columns=[f"{k}/{task}" for task in self.tasks]) for k, v in columns.items()]
        return pd.concat([pd.Series(np.arange(steps), name="step"), *tables], axis=1)

    def _confirm(self) -> list[dict[str, object]]:
        static, rows = self._static(), []
        for seed in range(1, self.seeds + 1):
            rows += [self._row("confirm", f"single_task/{task}", seed) for task in self.tasks]
            rows += [self._row("confirm", arm, seed, static[arm]) for arm in ("equal", "static/01", "static/02")]
            rows.append(self._row("confirm", "uncertainty", seed, self._near(1.4)))
            rows += [self._row("confirm", f"frozen/{rule}", seed, self._near(0.9)) for rule in ("loss", "gradient")]
            for recipe in RECIPES:
                rows.append(self._run("confirm", recipe, 0.25, seed))
                w = _closed(np.exp(self._average(recipe)))
                names = [f"gradnorm_static/{recipe}/{average}" for average in AVERAGES]
                rows += [self._row("confirm", name, seed, w) for name in names]
            if self.winner and self.winner not in {row["arm"] for row in rows if row["seed"] == seed}:
                alpha = float(self.winner.partition("alpha=")[2].partition(",")[0] or "nan")
                rows.append(self._row("confirm", self.winner, seed, self._near(0.0), alpha))
        return rows

    def _run(self, phase: str, recipe: str, alpha: float, seed: int) -> dict[str, object]:
        end = self._average(recipe) * (1 - 0.12 * abs(alpha - 0.25))
        return self._row(phase, f"gradnorm/{recipe}/alpha={alpha:g}", seed, _closed(np.exp(end)), alpha)

    def _row(
        self,
        phase: str,
        arm: str,
        seed: int,
        w: np.ndarray | None = None,
        alpha: float = np.nan,
        better: float = 0.0,
    ) -> dict[str, object]:
        kind, *rest = arm.partition("@")[0].split("/")
        status = "diverged" if arm in self.diverged and seed in self.diverged_seeds else "finished"
        ours = kind in ("gradnorm", "gradnorm_static")
        row: dict[str, object] = {
            "identity": hashlib.sha256(f"{phase}/{arm}/{seed}".encode()).hexdigest()[:16],
            "arm": arm,
            "phase": phase,
            "search": phase != "confirm",
            "kind": kind,
            "recipe": rest[0] if ours else "",
            "alpha": alpha,
            "seed": seed,
            "status": status,
            "steps": STEPS if status == "finished" else 40,
            "seconds": 3.4 * (self.slow_sweep if kind == "gradnorm" else 1.0) * self.random.uniform(0.95, 1.05),
            "alarms": "",
        }
        for split, worse in (("val", 0.0), ("test", 0.0), ("train", -0.8)):
            values = (
                self._metrics(arm, seed, w, worse - better)
                if status == "finished" and (split == "val" or seed)
                else [np.nan] * self.T
            )
            row |= {f"{split}/{task}": value for task, value in zip(self.tasks, values, strict=True)}
        weights = [float(t == rest[0]) for t in self.tasks] if kind == "single_task" else w
        for average in AVERAGES:
            row |= {f"{average}/{task}": value for task, value in zip(self.tasks, weights, strict=True)}
        return row

    def _metrics(self, arm: str, seed: int, w: np.ndarray | None, worse: float) -> np.ndarray:
        """Relative change of each task, the larger the less weight it has against the best weights."""
        change = worse + self.random.normal(0, 0.12, self.T)
        if w is not None:
            off = self.best - _centred(np.log(w))
            change += -1.5 + 0.9 * np.maximum(off, 0) ** 2
        if arm.startswith("gradnorm"):
            turn = -1 if self.verdict == "inconclusive" and seed % 2 else 1
            change += turn * SHIFT[self.verdict]
        change -= self.lead * (arm == self.winner)
        return self.base * (1 + np.array(self.scoring.directions) * change / 100)

    def _static(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(3)
        offsets = random.normal(0, 2.2, (self.points, self.T))
        offsets[:2] *= 0.05
        points = {f"static/{i:02d}": _closed(np.exp(self.best + off)) for i, off in enumerate(offsets, 1)}
        return {"equal": np.ones(self.T), **points}

    def _average(self, recipe: str) -> np.ndarray:
        shift = 0.35 if recipe == "paper" else 0.1
        return _centred(self.best + shift * np.where(np.arange(self.T) % 2 == 0, 1, -1))

    def _near(self, off: float) -> np.ndarray:
        return _closed(np.exp(self.best * (1 - 0.3 * off)))


def _centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean()


def _closed(w: np.ndarray) -> np.ndarray:
    return w * w.shape[-1] / w.sum(axis=-1, keepdims=True)
