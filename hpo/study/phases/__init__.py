"""The phases of a study. A new one is a file here and a line in `PHASES`."""

from __future__ import annotations

from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.phases.confirm import Confirm
from hpo.study.phases.gradnorm_sweeps import GradNormSweeps
from hpo.study.phases.references import References
from hpo.study.phases.refine import Refine
from hpo.study.phases.shortlist import Shortlist
from hpo.study.phases.static_search import StaticSearch
from hpo.study.phases.tune import Tune

# in order of priority: trials of an earlier phase are handed out first
PHASES: dict[str, type[StudyPhase]] = {
    phase.name: phase for phase in (References, Shortlist, StaticSearch, Refine, GradNormSweeps, Tune, Confirm)
}

__all__ = ["PHASES", "SoFar", "StudyPhase"]
