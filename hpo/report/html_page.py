"""The report as one HTML file that asks no server for anything."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs

from hpo.compare import Comparison
from hpo.core.arm import Arm
from hpo.core.number_format import NOTHING, bounds, ratio, signed
from hpo.report.answers import answers
from hpo.report.figures import FIGURES
from hpo.report.figures.style import TEMPLATES
from hpo.report.report_data import ReportData, recommended_weights
from hpo.report.sections import STUDY_FILE, facts, sections
from hpo.report.sentences import headline, sentences
from hpo.report.tables import ARM, NOTES, definitions, trials_table


class Tile(NamedTuple):
    """One of the numbers at the top of the page."""

    number: str
    what: str


class Panel(NamedTuple):
    """A figure as the page shows it; ``missing`` says why there is none."""

    caption: str
    height: int
    missing: str


def page(data: ReportData) -> str:
    """The whole page."""
    comparison = data.comparison
    panels, drawn = _figures(data)
    return _template().render(
        study=data.study,
        verdict=comparison.verdict.kind,
        headline=headline(comparison),
        answers=answers(comparison),
        sentences=sentences(comparison),
        weights=json.dumps(recommended_weights(comparison)) if comparison.recommended else "",
        tiles=_tiles(comparison),
        alarms=comparison.alarms,
        definitions=definitions(comparison),
        sections=sections(data),
        notes=NOTES,
        key=ARM,
        panels=panels,
        trials=trials_table(data),
        facts=facts(data),
        study_file=data.provenance.get(STUDY_FILE, ""),
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
    return environment.get_template("page.html.j2")


def _figures(data: ReportData) -> tuple[dict[str, Panel], dict[str, object]]:
    """What stands where a figure goes, and for those there are Plotly's JSON."""
    panels, drawn = {}, {}
    for name, module in FIGURES.items():
        figure = module.figure(data)
        if figure is None:
            panels[name] = Panel("", 0, module.MISSING)
        else:
            panels[name] = Panel(module.caption(data), figure.layout.height, "")
            drawn[name] = json.loads(figure.to_json())
    return panels, drawn


def _json(content: object) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _tiles(comparison: Comparison) -> list[Tile]:
    regret = comparison.verdict.regret
    interval = bounds(regret.low, regret.high)
    known = (
        f"regret, percentage points (95% interval {interval}), corrected for selection"
        if interval != NOTHING
        else "regret"
    )
    tiles = [Tile(signed(regret.mean), known), *_cost_tiles(comparison), *_budget_tile(comparison)]
    tiles += _distance_tile(comparison)
    return [tile for tile in tiles if tile.number != NOTHING]


def _cost_tiles(comparison: Comparison) -> list[Tile]:
    cost = comparison.cost
    ways = cost[cost["way"].str.startswith("GradNorm") & (cost["trials"] > 0)]
    sweeps = ways[ways["way"] == "GradNorm, all alpha sweeps"]
    return [
        Tile(
            f"{ratio(row[f'{unit}_ratio'])} \N{MULTIPLICATION SIGN}",
            f"the static search's {unit}, all alpha sweeps",
        )
        for _, row in sweeps.iterrows()
        for unit in ("steps", "seconds")
    ]


def _budget_tile(comparison: Comparison) -> list[Tile]:
    """How many points match, of the recipe that the verdict is on."""
    table, n = comparison.budget.table, len(comparison.budget.curve)
    recipe = Arm.parse(comparison.verdict.arm).recipe
    return [
        Tile(
            f"> {n}" if row["beyond"] else f"{row['k']}",
            f"of {n} static points to match the {row['recipe']} recipe's sweep, at least {row['k_low']}",
        )
        for _, row in table[table["recipe"] == recipe].iterrows()
    ]


def _distance_tile(comparison: Comparison) -> list[Tile]:
    """Of the arm that the verdict is on, not of the average that happens to come closest."""
    arm, table = Arm.parse(comparison.verdict.arm), comparison.distances
    average = arm.average or "arithmetic"  # the paper's E_t[w]
    found = table[(table["recipe"] == arm.recipe) & (table["average"] == average)]
    what = f"times off at most: E_t[w] ({arm.recipe} recipe, {average} average) from the best static weights"
    return [Tile(ratio(factor), what) for factor in found["factor"]]
