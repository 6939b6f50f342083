"""The report as one HTML file that needs no server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs

from hpo.compare import Comparison
from hpo.core.arm import Arm
from hpo.core.number_format import NOTHING, bounds, ratio, signed
from hpo.report.answers import POINTS, answers
from hpo.report.exploration import exploration
from hpo.report.figures import FIGURES
from hpo.report.figures.style import TEMPLATES
from hpo.report.glossary import glossary, linked
from hpo.report.report_data import ReportData, recommended_weights
from hpo.report.sections import STUDY_FILE, Section, facts, sections
from hpo.report.sentences import headline, matched, sentences
from hpo.report.tables import ARM, NOTES, definitions, trials_caption, trials_table


class Statistic(NamedTuple):
    """A number behind the answers, as text, with its name."""

    name: str
    value: str


class Panel(NamedTuple):
    """A figure as the page shows it, or the reason why it is missing, and whether it takes the whole width."""

    caption: str
    height: int
    missing: str
    wide: bool = True


def page(data: ReportData) -> str:
    """Return the whole page."""
    comparison = data.comparison
    every = sections(data)
    panels, drawn = _panels(every, data)
    explored = exploration(comparison)
    return _template().render(
        study=data.study,
        verdict=comparison.verdict.kind,
        headline=headline(comparison),
        answers=answers(comparison),
        finding=sentences(comparison)[0],
        weights=json.dumps(recommended_weights(comparison)) if comparison.recommended else "",
        statistics=_statistics(comparison),
        alarms=comparison.alarms,
        definitions=definitions(comparison),
        glossary=glossary(),
        sections=[section for section in every if section.figure in panels],
        left_out=[section for section in every if section.figure not in panels],
        notes=NOTES,
        key=ARM,
        panels=panels,
        trials=trials_table(data),
        trials_caption=trials_caption(data),
        facts=facts(data),
        study_file=data.provenance.get(STUDY_FILE, ""),
        exploration=explored,
        exploration_json=_json(explored),
        figures=_json(drawn),
        templates=_json(TEMPLATES),
        plotly=get_plotlyjs(),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("hpo.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["linked"] = linked
    return environment.get_template("page.html.j2")


def _panels(every: list[Section], data: ReportData) -> tuple[dict[str, Panel], dict[str, object]]:
    """Return the panels of the sections that have content, and Plotly's JSON of their figures."""
    panels, drawn = {}, {}
    for section in every:
        name, module = section.figure, FIGURES[section.figure]
        figure = module.figure(data)
        if figure is not None:
            panels[name] = Panel(module.caption(data), figure.layout.height, "", module.WIDE)
            drawn[name] = json.loads(figure.to_json())
        elif section.tables:
            panels[name] = Panel("", 0, section.missing)
    for name in _unpaired(panels):
        panels[name] = panels[name]._replace(wide=True)
    return panels, drawn


def _unpaired(panels: dict[str, Panel]) -> Iterator[str]:
    """Yield the panels of half the width that have no neighbour to fill their row."""
    for wide, group in groupby(panels, key=lambda name: panels[name].wide):
        names = list(group)
        if not wide and len(names) % 2:
            yield names[-1]


def _json(content: object) -> str:
    """Return JSON that cannot end the script element around it."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _statistics(comparison: Comparison) -> list[Statistic]:
    """Return the numbers behind the answers, without those that are unknown."""
    regret = comparison.verdict.regret
    rows = [
        Statistic("Regret of the best GradNorm arm, test split", signed(regret.mean)),
        Statistic("Its 95% interval, corrected for selection bias", bounds(regret.low, regret.high)),
        Statistic(f"Margin of equivalence, {POINTS}", f"{comparison.margin:g}"),
        Statistic("Confirm seeds", f"{regret.seeds}" if regret.seeds else NOTHING),
        *_cost(comparison),
        *_budget(comparison),
        *_distance(comparison),
    ]
    return [row for row in rows if row.value != NOTHING]


def _cost(comparison: Comparison) -> list[Statistic]:
    cost = comparison.cost
    sweeps = cost[(cost["way"] == "GradNorm, all alpha sweeps") & (cost["trials"] > 0)]
    return [
        Statistic(f"{unit.capitalize()} of all alpha sweeps / static search", ratio(row[f"{unit}_ratio"]))
        for _, row in sweeps.iterrows()
        for unit in ("steps", "seconds")
    ]


def _budget(comparison: Comparison) -> list[Statistic]:
    """Return the number of static points that match the recipe that the verdict is on."""
    row, n = matched(comparison), comparison.budget.points
    if row is None:
        return []
    amount = f"more than {n}" if row["beyond"] else f"{row['k']} of {n}"
    name = f"Static points that match the {row['recipe']} recipe's sweep"
    return [Statistic(name, f"{amount}, at least {row['k_low']}")]


def _distance(comparison: Comparison) -> list[Statistic]:
    """Return the distance of the arm that the verdict is on, which may not be the closest average."""
    arm, table = Arm.parse(comparison.verdict.arm), comparison.distances
    average = arm.average or "arithmetic"  # the paper's E_t[w]
    found = table[(table["recipe"] == arm.recipe) & (table["average"] == average)]
    name = f"Largest factor between E_t[w] ({arm.recipe} recipe, {average} average) and the best static weights"
    return [Statistic(name, ratio(factor)) for factor in found["factor"]]
