"""The benchmarks of whole searches run on tiny ones; the figures in them are nobody's to assert."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from benchmarks import scale, sweep
from hpo.launch.restore import open_plan


def rows(printed: str) -> list[list[str]]:
    """The rows of printed tables."""
    lines = [line for line in printed.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.chaos
@pytest.mark.slow
def test_a_plain_script_and_a_study_do_the_same_work(tmp_path, capsys):
    search = sweep.Search("toy", points=3, alphas=1, epochs=1)
    for part in ("plain", "ours"):
        (tmp_path / part).mkdir()
    plan = open_plan(search.study(tmp_path / "plain", "1"))
    plain = partial(sweep.run_plain, search, plan, 2, tmp_path / "plain")
    ours = partial(sweep.in_fresh_process, sweep.run_ours, search, tmp_path / "ours", "auto")
    with ThreadPoolExecutor(2) as pool:  # at once, since most of their time is the start of one process after another
        begun = {sweep.PLAIN: pool.submit(sweep.measure, plain, 4), "ours": pool.submit(sweep.measure, ours, 4)}
    figures = {name: future.result() for name, future in begun.items()}
    assert [one.trials for one in figures.values()] == [3, 4]
    for one in figures.values():
        assert 0 < one.training_share < 100
        assert one.memory > 100
    (difference,) = found = sweep.differences(figures)
    assert difference.shared == 3
    assert difference.median <= difference.largest <= sweep.TOLERANCE
    sweep.show("toy", figures, found)
    head, *table = rows(capsys.readouterr().out)
    assert head == ["", sweep.PLAIN, "ours"]
    assert [row[0] for row in table] == [label for name, (label, *_) in sweep.ROWS.items() if name != "gpu"]


def test_a_schedule_by_itself_hands_out_every_trial(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scale", "--trials", "20", "--alphas", "4", "--raylets"])
    scale.main()
    head, row = rows(capsys.readouterr().out)
    assert head == ["trials", "alphas", "next, ms", "finished, ms", "a look, ms"]
    assert row[:2] == ["20", "4"]


def test_a_watched_object_does_as_before_and_its_calls_are_counted():
    watch = scale.Stopwatch()
    numbers = watch.on([3, 1, 2], "numbers")
    numbers.sort()
    assert numbers.index(3) == 2
    assert watch.clock["numbers"] > 0


def test_the_largest_difference_is_found_where_it_is():
    metrics = {"1 1": {"a": 1.0, "b": 2.0}, "2 1": {"a": 9.0, "b": 9.0}}, {"1 1": {"a": 1.0, "b": 2.5}}
    one, other = (sweep.Figures(len(found), *[1.0] * 9, None, found) for found in metrics)
    (found,) = sweep.differences({"one": one, "other": other})
    assert found == sweep.Difference(("one", "other"), 1, 0.1, 0.2, "b of 1 1")


def test_a_trial_is_called_the_same_by_both():
    assert sweep.trial_key({"weights": {"b": 0.5, "a": 1.5}}, ["a", "b"]) == "1.5 0.5"
    assert sweep.trial_key({}, ["a", "b"]) == "1 1"
    assert sweep.trial_key({"recipe": "paper", "alpha": 0.5}, ["a", "b"]) == "alpha 0.5"
