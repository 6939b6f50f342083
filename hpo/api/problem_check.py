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
    """The findings of a check.

    Attributes:
        problem: its name.
        findings: in the order of the checks; each has a ``level``, a ``subject``, what was ``found``, and what is
            ``allowed`` instead.
    """

    problem: str
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings with which a study fails or is meaningless."""
        return self._of("fault")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that may be intended."""
        return self._of("warning")

    @property
    def counts(self) -> str:
        """The numbers of faults and warnings as text."""
        return f"Faults: {len(self.faults)}, warnings: {len(self.warnings)}."

    def _of(self, level: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == level)

    def __repr__(self) -> str:
        lines = [f"{self.problem}: one step of everything"]
        for finding in self.findings:
            lines.append(f"{finding.level:<7}  {finding.subject:<12}  {finding.found}")
            lines += [f"{'':23}allowed: {finding.allowed}"] if finding.allowed else []
        return "\n".join([*lines, self.counts])


def check(
    problem: ProblemLike,
    *,
    device: str | None = None,
    tell: Callable[[str], object] = str,
    on_finding: Callable[[Finding], object] = repr,
) -> CheckResult:
    """Run one step of everything on a problem, before a study trains it many times. Writes nothing.

    Args:
        problem: see `Study`.
        device: where to train: ``"cpu"``, ``"cuda:1"``, ...; default: a GPU if torch sees one.
        tell: called with the subject that is checked next.
        on_finding: called with each finding as soon as it is known.

    Raises:
        StudyError, ProblemError: the problem does not exist or refuses these arguments.
        OptionError: the device cannot be used.
    """
    import torch

    from hpo.check.problem_check import check_problem

    spec = study_from({"name": "check", "problem": named(problem)}).study.problem
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a trial has by default
    try:
        findings = check_problem(spec.name, spec.arguments, device_of(device), tell, on_finding)
        return CheckResult(spec.name, tuple(findings))
    finally:
        torch.set_num_threads(threads)


def device_of(name: str | None) -> torch.device:
    """Return a device that can be used; by default a GPU if torch sees one.

    Raises:
        OptionError: it cannot be used.
    """
    import torch

    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
    except RuntimeError:
        raise OptionError(f"--device: expected cpu, cuda, cuda:1, ..., got {chosen!r}") from None
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, ImportError, RuntimeError) as error:  # torch without CUDA raises AssertionError
        line = str(error).partition("\n")[0]
        raise OptionError(f"--device: {chosen} cannot be used: {line}") from None
    return device
