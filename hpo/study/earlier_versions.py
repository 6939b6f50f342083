"""Studies that an earlier version of gradsweep has begun: a new default changes none of their trials."""

from __future__ import annotations

import re
from typing import Any

from hpo.study.plan import Plan

SHORTLIST_SINCE = (0, 2)


def as_begun(plan: Plan, version: str | None) -> Plan:
    """Return the plan with the defaults of the first launch: no shortlist, static points around equal weights.

    Args:
        plan: of the study file as it is now.
        version: of gradsweep at the first launch; ``None`` if the study has no launch yet.

    >>> from hpo.problems.toy import Toy
    >>> from hpo.study.spec import Study
    >>> plan = Plan(Study(name="old", problem={"name": "toy"}), Toy())
    >>> as_begun(plan, "0.1.0").study.shortlist, as_begun(plan, "0.2.0").study.shortlist is None
    (None, False)
    """
    began = tuple(int(part) for part in re.findall(r"\d+", version or "")[:2])
    if not began or began >= SHORTLIST_SINCE:
        return plan
    study = plan.study
    changed: dict[str, Any] = {}
    if "shortlist" not in study.model_fields_set:
        changed["shortlist"] = None
    if study.static is not None and study.static.center is None and study.static.from_first_step:
        changed["static"] = study.static.model_copy(update={"center": "equal"})
    return plan.of(study.model_copy(update=changed)) if changed else plan
