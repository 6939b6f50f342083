"""Fill the tables of docs/results.md from finished studies: python docs/results.py [OUTPUT]

Copies the numbers of each study that it finds in the output folder (default gradsweep-output) to docs/results/,
then writes every table between its marks from what is there. Prose stays as it is. docs/results/few-runs/ is what
`python -m benchmarks.few_runs` keeps, docs/results/tuned-rates/ what `python -m benchmarks.tuned_rates` keeps.
docs/results/toy-choices.txt is what `python -m benchmarks.toy_choices` prints; public-models.txt, stored-races.txt,
stored-surfaces.txt and tuned-winner.txt, shown on other pages, are what `python -m benchmarks.public_models`,
`benchmarks.stored_races`, `benchmarks.stored_surfaces` and `benchmarks.tuned_winner` print.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import few_runs_tables, tuned_rates_tables
from benchmarks.markdown_table import markdown_table
from hpo.core.number_format import bounds, duration, ratio, signed, weight
from hpo.report.arm_labels import arm_label

DOCS = Path(__file__).parent
STUDIES = ("toy", "toy-scaled", "toy-ten", "census", "qm9", "earth", "multi_fashion")
TOYS = ("toy", "toy-scaled", "toy-ten")
RECIPES = ("paper", "robust", "annealed", "direct")
AVERAGES = ("arithmetic", "geometric", "tail", "geometric_tail")
OTHERS = ("equal", "uncertainty", "dwa", "imtl_l", "famo", "frozen/loss", "frozen/gradient", "known_optimum")
BANDS = ((0.0, 0.25), (0.25, 0.75), (0.75, 1.75), (1.75, 3.01))  # the upper end left out
TRIALS = ["phase", "arm", "recipe", "alpha", "seed", "status", "score_val", "score_test", "steps", "seconds"]
TRIALS += ["together"]
MARK = "\u2020"  # at seconds of trials that were trained one at a time, whatever they would be today
ONE_AT_A_TIME = (
    f"{MARK} Seconds of trials that were trained one at a time: these studies ran before several could be trained "
    "[at once](cheaper-search.md#trials-at-once-cohort), and a later version still did so by a fault, now corrected, "
    "wherever a method of torchjd was the last of `references`, as in these. Such seconds are higher than those of a "
    "run today where training at once pays, and their ratios may be others. Steps and scores do not depend on it."
)
NOTHING = "-"

Study = dict[str, Any]


def collect(output: Path) -> None:
    """Copy the numbers of the studies that the output folder holds."""
    for name in STUDIES:
        found = output / name / "report"
        if (found / "comparison.json").exists():
            folder = DOCS / "results" / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(found / "comparison.json", folder)
            trials = pd.read_csv(found / "trials.csv", usecols=lambda column: column in TRIALS)
            trials.to_csv(folder / "trials.csv", index=False, float_format="%.6g")


def load() -> dict[str, Study]:
    """The studies in docs/results/, in their order."""
    studies = {}
    for name in STUDIES:
        folder = DOCS / "results" / name
        if (folder / "comparison.json").exists():
            study = json.loads((folder / "comparison.json").read_text())
            study["arms"] = {arm["arm"]: arm for arm in study["arms"]}
            study["trials"] = pd.read_csv(folder / "trials.csv")
            studies[name] = study
    return studies


def one_at_a_time(study: Study) -> bool:
    """Return whether a study ran before trials could be trained at once, so that its seconds differ from today's."""
    return "together" not in study["trials"]


def with_bounds(mean: dict[str, Any]) -> str:
    """A mean with its 95% interval."""
    if mean["mean"] is None:
        return NOTHING
    return f"{signed(mean['mean'])} ({bounds(mean['low'], mean['high'])})"


def summary(studies: dict[str, Study]) -> str:
    """Return a table with one row per study: the verdict and its cost."""
    rows = []
    for name, study in studies.items():
        verdict = study["verdict"]
        sweep = next(c for c in study["cost"] if c["way"] == "GradNorm, all alpha sweeps")
        static = next(c for c in study["cost"] if c["way"] == "static search")
        mark = f" {MARK}" if one_at_a_time(study) else ""
        rows.append(
            [
                name,
                str(len(study["tasks"])),
                str(static["trials"]),
                verdict["kind"],
                arm_label(verdict["arm"]),
                with_bounds(verdict["regret"]),
                f"{ratio(sweep['steps_ratio'])} / {ratio(sweep['seconds_ratio'])}{mark}",
                duration(sum(study["trials"]["seconds"])) + mark,
            ]
        )
    head = ("study", "tasks", "static points", "verdict", "best GradNorm arm", "regret, corrected for selection")
    table = markdown_table(
        [*head, "all sweeps, times the static search (steps / seconds)", "training, all trials"], rows
    )
    return f"{table}\n\n{ONE_AT_A_TIME}" if any(map(one_at_a_time, studies.values())) else table


def regrets(studies: dict[str, Study], arms: dict[str, Callable[[Study], str | None]]) -> str:
    """Return the regret of arms against the best static arm on test, one column per study, and their mean rank."""
    found = {
        label: {name: study["arms"].get(find(study) or "") for name, study in studies.items()}
        for label, find in arms.items()
    }
    found = {label: row for label, row in found.items() if any(row.values())}
    means = pd.DataFrame({label: {name: _regret(arm) for name, arm in row.items()} for label, row in found.items()})
    real = [name for name in studies if name not in TOYS]
    ranks = means.loc[real].rank(axis=1).mean()
    shown = {label: f"{rank:.1f}" if np.isfinite(rank) else NOTHING for label, rank in ranks.items()}
    rows = [[label, *(_cell(arm) for arm in row.values()), shown[label]] for label, row in found.items()]
    return markdown_table(["arm", *studies, f"mean rank of {len(found)}, real data"], rows)


def _regret(arm: Study | None) -> float:
    if arm is None:
        return np.nan
    return 0.0 if arm["best_static"] else arm["regret"]["mean"]


def _cell(arm: Study | None) -> str:
    if arm is None:
        return NOTHING
    if arm["best_static"]:
        return "best static"
    text = with_bounds(arm["regret"])
    return f"**{text}**" if arm["verdict"] == "better" else text


def _dynamic(recipe: str) -> Callable[[Study], str | None]:
    return lambda study: next((arm for arm in study["arms"] if arm.startswith(f"gradnorm/{recipe}/")), None)


def _named(arm: str) -> Callable[[Study], str | None]:
    return lambda _: arm


def recipes(studies: dict[str, Study]) -> str:
    """Return a table of every recipe at its best alpha: the dynamic run and its static exports."""
    arms = {}
    for recipe in RECIPES:
        arms[f"{recipe}, dynamic"] = _dynamic(recipe)
        for average in AVERAGES:
            arms[f"{recipe}, {average} mean"] = _named(f"gradnorm_static/{recipe}/{average}")
    return regrets(studies, arms)


def others(studies: dict[str, Study]) -> str:
    """Return a table of the alternatives to GradNorm and the static search."""
    return regrets(studies, {arm_label(arm): _named(arm) for arm in OTHERS})


def alphas(studies: dict[str, Study]) -> str:
    """Score on validation against the best static point, search seed, of the sweep's trials by alpha."""
    rows = []
    for recipe in RECIPES:
        for low, high in BANDS:
            cells = []
            for study in studies.values():
                trials = study["trials"]
                best = trials[trials["phase"] == "static"]["score_val"].min()
                swept = trials[(trials["phase"] == "sweep") & (trials["recipe"] == recipe)]
                inside = swept[(swept["alpha"] >= low) & (swept["alpha"] < high)]["score_val"] - best
                lost = f", {inside.isna().sum()} without a score" if inside.isna().any() else ""
                cells.append((signed(inside.mean()) if inside.notna().any() else NOTHING) + lost)
            rows.append([recipe, f"{low:g} to {high:.3g}", *cells])
    return markdown_table(["recipe", "alpha", *studies], rows)


def weights(study: Study) -> str:
    """Return a table of the weights of the most important arms."""
    tasks = [task["name"] for task in study["tasks"]]
    wanted = [study["verdict"]["static"], study["recommended"]["arm"] if study["recommended"] else ""]
    wanted += ["equal", "frozen/loss", "frozen/gradient", "known_optimum"]
    wanted += [f"gradnorm_static/{recipe}/geometric" for recipe in RECIPES]
    rows = []
    for arm in dict.fromkeys(wanted):
        found = study["arms"].get(arm)
        if found:
            cells = [weight(found["weights"][task]) for task in tasks]
            rows.append([arm_label(arm), with_bounds(found["score_test"]), *cells])
    return markdown_table(["arm", "score, test", *(f"w {task}" for task in tasks)], rows)


def words(study: Study) -> str:
    """Return the report's sentences and its alarms."""
    alarms = [f"- {alarm}" for alarm in study["alarms"]]
    said = " ".join(study["verdict"]["sentences"])
    if one_at_a_time(study):
        marked = re.sub(r"\bseconds\b", f"seconds {MARK}", said)
        said = f"{marked} ({MARK} One trial at a time: see the first table.)"
    return "\n".join([said, *(["", *alarms] if alarms else [])])


def filled(text: str, studies: dict[str, Study]) -> str:
    """Return the page with every table between its marks."""
    blocks = {"summary": summary, "recipes": recipes, "others": others, "alphas": alphas}
    content = {name: make(studies) for name, make in blocks.items()}
    few = few_runs_tables.load(DOCS / "results" / "few-runs")
    content["few runs"], content["samplers"] = (
        make(few, STUDIES) for make in (few_runs_tables.tables, few_runs_tables.samplers)
    )
    tuned = few_runs_tables.load(DOCS / "results" / "tuned-rates")
    tuned = {name: tuned[name] for name in STUDIES if name in tuned}
    if tuned:
        content["tuned rates"] = tuned_rates_tables.regrets(tuned, TOYS)
        content["tuned gains"] = tuned_rates_tables.gains(tuned)
    content["toy choices"] = f"```\n{(DOCS / 'results' / 'toy-choices.txt').read_text()}```"
    for name, study in studies.items():
        content[f"words {name}"], content[f"weights {name}"] = words(study), weights(study)
    for name, block in content.items():
        mark = re.compile(f"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = mark.subn(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"docs/results.md: found the mark {name!r} {count} times, allowed: once")
    return text


PRINTED = ("public-models.md", "tuning.md", "weights.md")  # pages with outputs of commands


def printed(text: str) -> str:
    """Return a page with the outputs of commands, from docs/results, between their marks."""
    mark = re.compile(r"(<!-- printed: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return mark.sub(
        lambda found: f"{found[1]}```\n{(DOCS / 'results' / f'{found[2]}.txt').read_text()}```\n{found[3]}", text
    )


def main() -> None:
    """Write the pages."""
    collect(Path(sys.argv[1] if len(sys.argv) > 1 else "gradsweep-output"))
    page = DOCS / "results.md"
    page.write_text(filled(page.read_text(), load()))
    for name in PRINTED:
        page = DOCS / name
        page.write_text(printed(page.read_text()))


if __name__ == "__main__":
    main()
