"""Cost by adding up."""

from __future__ import annotations

import pytest

from tests.helpers.compare_tables import arm, compared, row


def test_cost_adds_up_what_the_search_took() -> None:
    static = [row(f"static/0{i}", 0, steps=100, seconds=10.0) for i in range(1, 5)]
    sweep = [row(f"gradnorm/paper/alpha={a}", 0, steps=100, seconds=12.0) for a in (0, 1)]
    sweep += [row("gradnorm/paper/alpha=9", 0, steps=20, seconds=2.0, status="diverged")]
    sweep += [row("gradnorm/robust/alpha=1", 0, steps=100, seconds=14.0)]
    confirm = arm("gradnorm/paper/alpha=1", [0.0] * 3, [0.0] * 3, steps=5000, seconds=999.0)  # counts for nobody
    cost = compared(static, sweep, confirm).cost.set_index("way")
    expected = {
        "static search": (4, 400, 40.0),
        "GradNorm, all alpha sweeps": (4, 320, 40.0),
        "GradNorm paper, alpha sweep": (3, 220, 26.0),
        "GradNorm robust, alpha sweep": (1, 100, 14.0),
        "GradNorm paper, one run": (1, 100, 12.0),
        "GradNorm robust, one run": (1, 100, 14.0),
        "the whole search": (10, 920, 100.0),
        "one run with fixed weights": (1, 100, 10.0),
    }
    assert {way: (c["trials"], c["steps"], c["seconds"]) for way, c in cost.iterrows()} == expected
    for way, (_, steps, seconds) in expected.items():
        assert cost.loc[way, ["steps_ratio", "seconds_ratio"]].tolist() == pytest.approx([steps / 400, seconds / 40])


def test_a_run_with_fixed_weights_may_have_run_in_the_confirm_phase_alone() -> None:
    sweep = [row("gradnorm/paper/alpha=1", 0, steps=100, seconds=14.0)]
    confirm = arm("frozen/loss", [0.0] * 2, [0.0] * 2, steps=300, seconds=30.0)
    cost = compared(sweep, confirm, seeds=2).cost.set_index("way")
    assert cost.loc["one run with fixed weights", ["steps", "seconds"]].tolist() == [300, 30]
