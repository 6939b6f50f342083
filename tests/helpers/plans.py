"""Plans of small studies."""

from __future__ import annotations

from typing import Any

from hpo.core.trial import PlannedTrial
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from hpo.study.spec import Study
from tests.helpers.small_problem import Small


def around_equal(static: Any) -> Any:
    """A study file's `static` whose points are known beforehand; tests/hpo/study/test_static_center.py has others."""
    moves = isinstance(static, dict) and static.get("design", "log_lattice") in ("log_lattice", "sobol")
    return {"center": "equal"} | static if moves and "ratio" not in static else static


def make_plan(**fields: Any) -> Plan:
    """The plan of a small study on `tests.helpers.small_problem`."""
    content: dict[str, Any] = {
        "name": "small",
        "problem": {"name": "small", "size": 3},
        "static": {"points": 6},
        "seeds": 2,
    }
    content["shortlist"] = "off"  # tests/hpo/study/test_shortlist.py has one
    content |= fields
    content["static"] = around_equal(content["static"])
    sweeps = content.pop("gradnorm", {})
    content["gradnorm"] = (
        {"recipes": ["paper", "robust"], "alpha": [0.0, 3.0]} | sweeps if isinstance(sweeps, dict) else sweeps
    )
    return Plan(Study.model_validate(content), Small())


def arms(trials: list[PlannedTrial]) -> list[str]:
    return list(dict.fromkeys(planned.arm for planned in trials))


def sizes(plan: Plan) -> dict[str, tuple[int, int]]:
    """Arms and trials by phase."""
    return {phase.name: phase.size() for phase in Schedule(plan, runs=False).phases}
