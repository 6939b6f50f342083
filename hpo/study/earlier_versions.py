"""Studies that an earlier version of gradsweep has begun: a new default adds no phase to them."""

from __future__ import annotations

import re
from copy import copy

from hpo.study.plan import Plan

SHORTLIST_SINCE = (0, 2)


def as_begun(plan: Plan, version: str | None) -> Plan:
    """Return the plan without the phases that its study does not name and that the first launch did not know.

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
    if not began or began >= SHORTLIST_SINCE or "shortlist" in plan.study.model_fields_set:
        return plan
    earlier = copy(plan)
    earlier.study = plan.study.model_copy(update={"shortlist": None})
    return earlier
