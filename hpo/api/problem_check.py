"""``gradsweep check`` from Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.api.problem_key import ProblemLike, named
from hpo.core.errors import OptionError
from hpo.study.study_file import study_from

if TYPE_CHECKING:
    import torch

    from hpo.check.problem_check import Finding


@dataclass(frozen=True)
class CheckResult:
    """What a check has found.

    Attributes:
        problem: its name.
        findings: in the order in which things were looked at; each has a ``level``, ``subject``, ``found``, and
            what is ``allowed`` instead.
    """

    problem: str
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """With any of these a study fails or means nothing."""
        return self._of("fault")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """These may be meant."""
        return self._of("warning")

    @property
    def counts(self) -> str:
        """How many faults and warnings there are, in words."""
        return f"Faults: {len(self.faults)}, warnings: {len(self.warnings)}."

    def _of(self, level: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == level)

    def __repr__(self) -> str:
        lines = [f"{self.problem}: one step of everything"]
        for finding in self.findings:
            lines.append(f"{finding.level:<7}  {finding.subject:<12}  {finding.found}")
            lines += [f"{'':23}allowed: {finding.allowed}"] if finding.allowed else []
        return "\n".join([*lines, self.counts])


def check(problem: ProblemLike, *, device: str | None = None, tell: Callable[[str], object] = str) -> CheckResult:
    """Run one step of everything on a problem, before a study trains it many times. Writes nothing.

    Args:
        problem: see `Study`.
        device: where to train: ``"cpu"``, ``"cuda:1"``, ...; default: a GPU if torch sees one.
        tell: told the subject that is looked at next.

    Raises:
        StudyError, ProblemError: no such problem, or not with these arguments.
        OptionError: the device cannot be used.
    """
    import torch

    from hpo.check.problem_check import check_problem

    spec = study_from({"name": "check", "problem": named(problem)}).study.problem
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a trial has by default
    try:
        return CheckResult(spec.name, tuple(check_problem(spec.name, spec.arguments, _device(device), tell)))
    finally:
        torch.set_num_threads(threads)


def _device(name: str | None) -> torch.device:
    import torch

    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
    except RuntimeError:
        raise OptionError(f"--device: expected cpu, cuda, cuda:1, ..., got {chosen!r}") from None
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, ImportError, RuntimeError) as error:  # a build of torch without CUDA asserts
        line = str(error).partition("\n")[0]
        raise OptionError(f"--device: {chosen} cannot be used: {line}") from None
    return device
