"""A launch that was suspended and whose study another one has taken over: it writes nothing any more."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from hpo.core.errors import LaunchLostError
from hpo.tracking.backend import embedded_uri
from hpo.tracking.delivery import Heartbeat, MlflowWriter, deliver
from hpo.tracking.experiment import OpenRun, StudyExperiment
from hpo.tracking.outbox import EndedTrial, Outbox
from tests.helpers.forks import Forks
from tests.helpers.runs import Case, assert_complete, wait_until
from tests.helpers.tracking import Server, planned, report, result, trial_runs, write

# Between two heartbeats, and how long the next launch waits for them, in seconds.
HASTY = {"hpo.tracking.delivery.BEAT_SECONDS": 1.0, "hpo.tracking.launch_lock.WATCH_SECONDS": 4.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lost")
    StudyExperiment(embedded_uri(folder), "first", folder)
    return folder


@pytest.fixture
def owner(folder: Path, request: pytest.FixtureRequest) -> StudyExperiment:
    store = StudyExperiment(embedded_uri(folder), request.node.name[:60], folder)
    store.start_launch("name: x")
    return store


def take_over(store: StudyExperiment, folder: Path) -> StudyExperiment:
    """The next launch, as the command opens it."""
    other = StudyExperiment(store.uri, store.study, folder)
    other.reconcile()
    other.start_launch("name: x")
    other.records()
    return other


def state(store: StudyExperiment) -> list[tuple[object, ...]]:
    """Everything that MLflow holds of a study's runs."""
    runs = store.client.search_runs([store.experiment_id])
    return sorted((run.info.run_id, run.info.status, run.info.end_time, *run.data.tags.items()) for run in runs)


def ended(seed: int = 0) -> EndedTrial:
    return EndedTrial(planned(seed), "parent", 1000, 2000, result(), [report(1)])


WRITES = {
    "beat": lambda store, run: store.beat(store._launch),
    "open": lambda store, run: store.open(planned(7), store._launch, 1000),
    "write": lambda store, run: store.write(ended()),
    "write_epochs": lambda store, run: store.write_epochs(run, planned(), [report(1)]),
    "interrupt": lambda store, run: store.interrupt(run.run_id),
    "end_launch": lambda store, run: store.end_launch(store._launch, "FINISHED"),
    "log_report": lambda store, run: store.log_report(store._launch, [], "note", {}),
    "log_scores": lambda store, run: store.log_scores({planned().config.identity: {"score/val": 1.0}}),
}


@pytest.mark.parametrize("name", WRITES)
def test_no_write_goes_through(owner, folder, name):
    run: OpenRun = owner.open(planned(), owner._launch, 1000)
    other = take_over(owner, folder)
    before = state(other)
    with pytest.raises(
        LaunchLostError, match=r"another launch of study '.*' on \S+ \(process \d+\) has taken it over"
    ):
        WRITES[name](owner, run)
    assert state(other) == before


def test_a_run_created_while_the_study_was_taken_over_is_removed(owner, folder, monkeypatch):
    create = owner._create_run

    def after_a_long_sleep(**content):
        take_over(owner, folder)
        return create(**content)

    monkeypatch.setattr(owner, "_create_run", after_a_long_sleep)
    with pytest.raises(LaunchLostError):
        owner.open(planned(), owner._launch, 1000)
    assert trial_runs(owner) == []


def test_a_run_that_the_other_launch_has_taken_for_its_own_stays(owner, folder, monkeypatch):
    """This launch was suspended after it had created the run and before the next check."""
    create, others = owner._create_run, []

    def before_a_long_sleep(**content):
        made = create(**content)
        others.append(take_over(owner, folder))
        return made

    monkeypatch.setattr(owner, "_create_run", before_a_long_sleep)
    with pytest.raises(LaunchLostError):
        owner.open(planned(), owner._launch, 1000)
    (run,) = trial_runs(owner)
    assert others[0].open(planned(), others[0]._launch, 2000).run_id == run.info.run_id


def test_a_run_that_was_deleted_meanwhile_is_made_anew(owner):
    first = owner.open(planned(), owner._launch, 1000)
    owner.client.delete_run(first.run_id)
    owner.write(ended())
    (run,) = trial_runs(owner)
    assert (run.info.run_id == first.run_id, run.info.status) == (False, "FINISHED")


def test_a_run_whose_check_failed_is_found_again_and_not_made_twice(owner, monkeypatch):
    get_run, asked = owner.client.get_run, []

    def away_at_the_second_question(run_id):
        asked.append(run_id)
        if len(asked) == 2:
            raise ConnectionError("the server went away")
        return get_run(run_id)

    monkeypatch.setattr(owner.client, "get_run", away_at_the_second_question)
    with pytest.raises(ConnectionError):
        owner.open(planned(), owner._launch, 1000)
    owner.open(planned(), owner._launch, 1000)
    assert len(trial_runs(owner)) == 1


def test_one_that_was_suspended_before_it_had_begun_closes_and_writes_nothing(owner, folder, tmp_path):
    """It had found no other launch, and then the owner began."""
    late = StudyExperiment(owner.uri, owner.study, folder)
    late.take_over([])
    journal = Outbox(tmp_path / "undelivered")
    journal.add(ended(1))
    owner.open(planned(), owner._launch, 1000)
    before = state(owner)
    with pytest.raises(LaunchLostError):
        late.reconcile()
    (fault,) = deliver(journal, late)
    assert "has taken it over" in fault
    assert state(owner) == before
    assert len(journal) == 1


@pytest.mark.parametrize("over", [True, False])
def test_one_that_was_suspended_while_it_started_does_not_begin(owner, folder, over):
    """Another launch has begun meanwhile, and perhaps trained everything: its results would be missing."""
    late = StudyExperiment(owner.uri, owner.study, folder)
    late.take_over([owner._launch])
    late.reconcile()
    late.records()
    other = take_over(owner, folder)
    if over:
        other.end_launch(other._launch, "FINISHED")
    before = state(owner)
    with pytest.raises(LaunchLostError, match="has begun while this one started"):
        late.start_launch("name: x")
    assert [row for row in state(owner) if row in before] == before
    (own,) = (row for row in state(owner) if row not in before)
    assert own[1] == "KILLED"


def test_launches_that_were_found_dead_are_closed(owner, folder):
    late = StudyExperiment(owner.uri, owner.study, folder)
    late.take_over([owner._launch])
    assert late.reconcile() == 1
    assert late.open_launches() == []


def test_a_launch_sends_heartbeats_whatever_the_driver_is_doing(owner, folder, monkeypatch):
    monkeypatch.setattr("hpo.tracking.delivery.BEAT_SECONDS", 0.1)
    (first,) = owner.open_launches()
    with Heartbeat(owner, owner._launch) as heart:
        wait_until(lambda: owner.open_launches()[0].alive != first.alive, 30, "a heartbeat")
        take_over(owner, folder)
        wait_until(lambda: heart.lost, 30, "the heartbeat to notice")


def test_the_writer_stops_and_keeps_what_it_has(owner, folder, tmp_path):
    journal = Outbox(tmp_path / "undelivered")
    writer = MlflowWriter(owner, owner._launch, journal)
    writer.trial_started(planned(1))
    writer.trial_reported(planned(1), report(1))
    wait_until(lambda: trial_runs(owner), 30)
    other = take_over(owner, folder)
    before = state(other)
    writer.trial_ended(planned(1), result())
    wait_until(lambda: writer.lost, 30, "the writer to notice")
    assert [entry.planned for entry in writer.close()] == [planned(1)]
    assert state(other) == before
    assert [entry.planned for entry in journal.entries()] == [planned(1)]


def test_what_the_owner_has_trained_is_not_delivered_again(owner, folder, tmp_path):
    theirs, mine = Outbox(tmp_path / "theirs"), Outbox(tmp_path / "mine")
    mine.add(ended(0))
    mine.add(ended(1))
    other = take_over(owner, folder)
    write(other, theirs, planned(0), result(validation=0.125))
    assert deliver(mine, StudyExperiment(owner.uri, owner.study, folder)) == []
    assert len(mine) == 0
    values = {run.data.tags["gradsweep.seed"]: run.data.metrics["final_val/depth"] for run in trial_runs(other)}
    assert values == {"0": 0.125, "1": 0.25}


def test_a_trial_that_had_failed_is_delivered_once_it_has_a_result(owner, folder, tmp_path):
    write(owner, Outbox(tmp_path / "first"), planned(), result("failed", error="OSError: full"))
    assert not owner.has_result(planned().config.identity)
    again = Outbox(tmp_path / "again")
    again.add(ended())
    assert deliver(again, owner) == []
    runs = [run for run in trial_runs(owner) if run.data.tags["gradsweep.status"] == "finished"]
    assert len(runs) == len(trial_runs(owner)) == 1


@pytest.mark.slow
def test_a_suspended_driver_that_resumes_writes_nothing_twice(tmp_path):
    case, server = Case(tmp_path / "case", workers=1), Server(tmp_path)
    case.study(seeds=1, checkpoint_seconds=0)
    forks = Forks(case.folder, case.mark, HASTY)
    server.start()
    try:
        case.steer(block=4)  # the fifth trial and those after it wait in their second epoch
        first = forks.start("run", "study.yaml", "--output", "first", "--tracking-uri", server.url)
        wait_until(lambda: (case.folder / "blocked").exists(), what="trials of the first launch")
        first.send(signal.SIGSTOP)
        (case.folder / "blocked").unlink()
        second = forks.start("run", "study.yaml", "--output", "second", "--tracking-uri", server.url)
        wait_until(lambda: (case.folder / "blocked").exists(), 120, "trials of the second launch")
        assert second.returncode is None
        first.send(signal.SIGCONT)
        assert first.wait() == 1, first.printed()
        assert len(first.errors().splitlines()) == 1
        assert "has taken it over" in first.errors()
        assert "Traceback" not in first.printed()
        case.steer()
        assert (second.wait(), second.errors()) == (0, ""), second.printed()
        assert "watching it for heartbeats" in second.printed()
        assert_complete(case.runs(uri=server.url), 15)
        launches = [run.info.status for run in case.runs("launch", server.url)]
        assert launches == ["KILLED", "FINISHED"]
        report = forks.run("report", "study.yaml", "--output", "first", "--tracking-uri", server.url)
        assert report.returncode == 0
        assert_complete(case.runs(uri=server.url), 15)
    finally:
        case.steer()
        server.stop()
        forks.close()
        for process in case.processes():
            process.kill()
