"""The writer and its journal: what reaches MLflow, whatever the backend does and whenever the driver dies."""

import math
import re
import select
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

import hpo.tracking.delivery
from benchmarks.unreliable_proxy import FAULTS, UnreliableProxy
from hpo.core.trial import AVERAGES, EpochMetrics, EpochReport
from hpo.tracking.backend import embedded_uri
from hpo.tracking.delivery import MlflowWriter, deliver
from hpo.tracking.experiment import AT_ONCE, StudyExperiment
from hpo.tracking.outbox import TRAJECTORY, TRIAL, EndedTrial, Outbox
from tests.helpers.runs import place_database, wait_until
from tests.helpers.tracking import TASKS, Server, again, history, only_run, planned, report, result, trial_runs, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a database; each test has a study of its own in it."""
    folder = tmp_path_factory.mktemp("tracking")
    place_database(folder)
    return folder


@pytest.fixture
def store(folder: Path, request: pytest.FixtureRequest) -> StudyExperiment:
    return StudyExperiment(embedded_uri(folder), request.node.name, folder)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client asks once: each of its attempts at a server that is away takes seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def journal(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "undelivered")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


def counted_requests(store: StudyExperiment, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs to which a store adds metrics, tags or parameters from now on."""
    asked: list[str] = []
    log = store.client.log_batch
    monkeypatch.setattr(
        store.client, "log_batch", lambda run, *more, **named: asked.append(run) or log(run, *more, **named)
    )
    return asked


class TestWriter:
    def test_a_trial_comes_back_as_it_was(self, store, journal, folder):
        write(store, journal, planned(), result(alarms=["a weight reached its floor"]))
        other, (record,) = again(store, folder)
        assert record.config == planned().config
        assert record.run_id == only_run(store).info.run_id == other.run_of(planned().config.identity)
        expected = vars(result(alarms=["a weight reached its floor"])) | {"trajectory": {}}
        expected["averages"] = {average: {} for average in AVERAGES} | expected["averages"]
        assert vars(record.result) == expected
        table = other.trajectory(planned().config.identity)
        assert list(table) == ["step", *(f"{name}/{task}" for name in "wGrL" for task in TASKS)]

    def test_the_same_trial_again_leaves_one_of_each(self, store, journal, folder):
        writer = MlflowWriter(store, "parent", journal)
        writer.trial_started(planned())
        writer.trial_reported(planned(), report(1))
        wait_until(lambda: trial_runs(store) and history(store, "loss/depth"))
        assert writer.close() == []
        run = only_run(store)
        assert (run.info.status, run.data.tags["gradsweep.status"]) == ("KILLED", "interrupted")
        other, records = again(store, folder)
        assert records == []
        for _ in range(2):
            write(other, journal, planned(), result())
            other, _ = again(store, folder)
        assert history(store, "loss/depth") == [(1, 1.0), (2, 0.5)]
        assert history(store, "final_val/depth") == [(0, 0.25)]
        assert history(store, "steps") == [(0, 16.0)]
        assert only_run(store).info.run_id == run.info.run_id

    def test_epochs_that_a_resumed_trial_reports_again_count_once(self, store, journal):
        writer = MlflowWriter(store, "parent", journal)
        for epochs in ((1, 2, 3), (1, 2, 3, 4)):  # its worker died after the third
            writer.trial_started(planned())
            for epoch in epochs:
                writer.trial_reported(planned(), report(epoch))
        writer.trial_ended(planned(), result())
        assert writer.close() == []
        assert [step for step, _ in history(store, "loss/depth")] == [1, 2, 3, 4]

    @pytest.mark.parametrize("first", [0.125, 0.5])
    def test_after_a_failure_the_last_values_count(self, store, journal, folder, first):
        write(store, journal, planned(), result("failed", validation=first, error="OSError: full"), epochs=1)
        assert only_run(store).info.status == "FAILED"
        other, (record,) = again(store, folder)
        assert (record.result.status, record.result.error) == ("failed", "OSError: full")
        write(other, journal, planned(), result())
        _, (record,) = again(store, folder)
        assert (record.result.status, record.result.error) == ("finished", "")
        assert record.result.validation == dict.fromkeys(TASKS, 0.25)
        assert only_run(store).info.status == "FINISHED"

    def test_long_histories_are_whole(self, store, journal):
        write(store, journal, planned(), result(), epochs=300)  # 3,000 metrics, three times what a request may carry
        for group in ("loss", "val", "w", "G", "r"):
            assert [step for step, _ in history(store, f"{group}/normals")] == list(range(1, 301))

    def test_many_parameters_and_a_long_config_come_back(self, store, journal, folder):
        trial = planned(**{f"option_{i}": "x" * 100 for i in range(150)})
        write(store, journal, trial, result())
        _, (record,) = again(store, folder)
        assert record.config == trial.config
        assert record.config.identity == trial.config.identity
        assert only_run(store).data.params["problem/option_149"] == "x" * 100

    def test_hundreds_of_long_alarms_and_any_text_come_back(self, store, journal, folder):
        odd = "half a pair \ud800, NUL \0, escape \x1b[31m"
        end = result("failed", alarms=[f"{k} {'x' * 5000}" for k in range(300)], error=odd)
        write(store, journal, planned(note=odd), end)
        _, (record,) = again(store, folder)
        assert record.config == planned(note=odd).config
        assert record.result.error == "half a pair \\ud800, NUL \\x00, escape \x1b[31m"
        assert record.result.alarms
        assert all(alarm.startswith(f"{k} xxx") for k, alarm in enumerate(record.result.alarms))

    def test_the_epochs_that_may_be_the_best_come_back_although_the_trial_failed_with_more_before(
        self, store, journal, folder
    ):
        epochs = [EpochMetrics(k, dict.fromkeys(TASKS, k / 3), {}, {"depth": k / 7}) for k in range(400)]
        for status, some in (("failed", epochs), ("finished", epochs[:120])):
            end = result(status)
            end.best_epochs = some
            write(store, journal, planned(), end)
            store, (record,) = again(store, folder)
            assert record.result.best_epochs == some

    def test_nan_and_infinity_come_back(self, store, journal, folder):
        odd = result("diverged")
        odd.validation = {"depth": math.nan, "normals": -math.inf}
        odd.initial_losses = {"depth": math.inf, "normals": 1e308}
        write(store, journal, planned(), odd)
        _, (record,) = again(store, folder)
        assert math.isnan(record.result.validation["depth"])
        assert record.result.validation["normals"] == -math.inf
        assert record.result.initial_losses == {"depth": math.inf, "normals": 1e308}

    def test_a_trial_that_mlflow_refuses_does_not_hold_up_others_and_waits(self, store, journal, monkeypatch):
        monkeypatch.setattr(hpo.tracking.delivery, "CLOSE_SECONDS", 1.5)
        bad = planned(seed=1)
        writer = MlflowWriter(store, "parent", journal)
        for trial in (bad, planned(seed=2), planned(seed=3)):
            writer.trial_started(trial)
            values = {"depth[0]" if trial is bad else "depth": 1.0}
            writer.trial_reported(trial, EpochReport(1, 2, 8, 0.1, values, {}, {}, {}, {}))
            writer.trial_ended(trial, result())
        assert [entry.planned for entry in writer.close()] == [bad]
        assert "depth[0]" in writer.last_fault
        runs = store.client.search_runs([store.experiment_id], "attributes.status = 'FINISHED'")
        assert {run.data.tags["gradsweep.seed"] for run in runs} == {"2", "3"}
        assert [entry.planned for entry in journal.entries()] == [bad]
        (fault,) = deliver(journal, store)
        assert fault.startswith(f"MLflow did not accept {bad.name}: ")
        assert len(journal) == 1

    def test_a_fault_of_our_own_does_not_hold_up_the_others(self, store, journal):
        def delivered(identity: str) -> None:
            if identity == planned(1).config.identity:
                raise RuntimeError("a fault of our own")

        writer = MlflowWriter(store, "parent", journal, delivered)
        writer.trial_ended(planned(1), result())
        wait_until(lambda: writer.faults, what="the fault")
        writer.trial_ended(planned(2), result())
        assert writer.close() == []
        assert writer.last_fault == "RuntimeError: a fault of our own"
        assert {run.data.tags["gradsweep.seed"] for run in trial_runs(store)} == {"1", "2"}
        assert {run.info.status for run in trial_runs(store)} == {"FINISHED"}


class TestScores:
    """Scores that are known when a trial has ended."""

    def test_are_written_with_the_result_in_the_same_request(self, store, journal, folder, monkeypatch):
        scores = {planned().config.identity: {"score/val": 1 / 3}}
        requests = counted_requests(store, monkeypatch)
        writer = MlflowWriter(store, "parent", journal, scores=lambda _: scores)
        writer.trial_ended(planned(), result())
        assert writer.close() == []
        assert history(store, "score/val") == [(0, 1 / 3)]
        other, _ = again(store, folder)
        more = counted_requests(other, monkeypatch)
        for same in (1 / 3, 1 / 3 * (1 + 1e-15)):
            for one in (store, other):
                one.log_scores({planned().config.identity: {"score/val": same}})
        assert (len(requests), len(more)) == (1, 0)
        other.log_scores({planned().config.identity: {"score/val": 0.5, "score/test": 2.0}})
        assert only_run(store).data.metrics.items() >= {"score/val": 0.5, "score/test": 2.0}.items()
        assert len(more) == 1

    def test_of_trials_that_wait_are_computed_at_once(self, store, journal, monkeypatch):
        monkeypatch.setattr(hpo.tracking.delivery, "FLUSH_SECONDS", 600.0)
        asked: list[int] = []
        writer = MlflowWriter(store, "parent", journal, scores=lambda trials: asked.append(len(trials)) or {})
        for seed in range(5):
            writer.trial_ended(planned(seed), result())
        assert writer.close() == []
        assert asked == [5]

    def test_of_a_trial_that_ends_while_others_are_scored_are_written_with_it_too(self, store, journal):
        late = [planned(1)]

        def scores(trials):
            if late:
                writer.trial_ended(late.pop(), result())
            return {trial.config.identity: {"score/val": 1.0} for trial in trials}

        writer = MlflowWriter(store, "parent", journal, scores=scores)
        writer.trial_ended(planned(0), result())
        assert writer.close() == []
        assert [run.data.metrics.get("score/val") for run in trial_runs(store)] == [1.0, 1.0]

    def test_that_cannot_be_computed_hold_up_no_trial(self, store, journal):
        writer = MlflowWriter(store, "parent", journal, scores=lambda _: 1 / 0)
        writer.trial_ended(planned(), result())
        assert writer.close() == []
        assert (writer.unscored, writer.last_fault) == ("ZeroDivisionError: division by zero", "")
        assert only_run(store).info.status == "FINISHED"

    def test_go_on_where_a_refused_one_has_stopped_them(self, store, journal):
        trials = [planned(seed) for seed in range(6)]
        for trial in trials:
            write(store, journal, trial, result())
        scores = {trial.config.identity: {"score/val": 1.0} for trial in trials}
        refused = store.run_of(trials[2].config.identity)
        store.client.delete_run(refused)
        with pytest.raises(MlflowException, match="must be in the 'active' state"):
            store.log_scores(scores)
        store.client.restore_run(refused)
        store.log_scores(scores)
        for run in trial_runs(store):
            points = store.client.get_metric_history(run.info.run_id, "score/val")
            assert [point.value for point in points] == [1.0]


class TestJournal:
    """Trials that a driver wrote down and did not deliver."""

    @staticmethod
    def entry(seed: int, **more: object) -> EndedTrial:
        return EndedTrial(
            planned(seed), "parent", 1000 * seed, 1000 * seed + 500, result(**more), [report(1), report(2)]
        )

    def test_what_is_read_is_what_was_written(self, journal):
        odd = result("diverged", math.nan, error="x", alarms=["<b>"])
        journal.add(EndedTrial(planned(3), "parent", 5, 7, odd, [report(1)]))
        (entry,) = journal.entries()
        assert (entry.planned, entry.launch, entry.started, entry.ended) == (planned(3), "parent", 5, 7)
        assert entry.epochs == [report(1)]
        assert entry.planned.config.identity == planned(3).config.identity
        assert math.isnan(entry.result.validation["depth"])
        assert (entry.result.status, entry.result.error, entry.result.alarms) == ("diverged", "x", ["<b>"])
        table = pd.read_parquet(entry.trajectory)
        assert list(table) == ["step", *(f"{name}/{task}" for name in "wGrL" for task in TASKS)]

    def test_no_flipped_bit_is_delivered(self, journal):
        """Every bit of the first kilobyte and every seventh byte's of the rest, of record and trajectory."""
        kept = journal.add(self.entry(1))
        (before,) = journal.entries()
        for path in (kept.folder / TRIAL, kept.folder / TRAJECTORY):
            whole = path.read_bytes()
            places = [*range(min(len(whole), 1000)), *range(1000, len(whole), 7)]
            for place in places:
                flipped = bytearray(whole)
                flipped[place] ^= 1 << place % 8
                path.write_bytes(flipped)
                assert journal.entries() == [], (path.name, place)
            path.write_bytes(whole)
        assert journal.entries() == [before]

    @pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"{" + b'"a":{' * 100_000, b"", b"null", b"\xff"])
    def test_what_is_damaged_is_set_aside_and_its_trial_runs_again(self, journal, store, content):
        damaged, kept = journal.add(self.entry(1)), journal.add(self.entry(2))
        (damaged.folder / TRIAL).write_bytes(content)
        (moved,) = journal.set_aside_damaged()
        assert (moved / TRIAL).read_bytes() == content
        assert moved.parent == journal.folder.parent / "damaged"
        assert deliver(journal, store) == []
        assert [run.data.tags["gradsweep.identity"] for run in trial_runs(store)] == [kept.planned.config.identity]
        assert not journal.folder.exists()

    def test_an_entry_of_the_version_before_is_delivered(self, journal):
        kept = journal.add(self.entry(1))
        (before,) = journal.entries()
        path = kept.folder / TRIAL
        path.write_bytes(path.read_bytes().partition(b"\n")[2])  # it had no first line
        assert journal.entries() == [before]

    def test_is_delivered_in_order_and_once(self, store, journal, folder):
        seeds = [5, 3, 9, 1]
        for seed in seeds:
            journal.add(self.entry(seed))
        told: list[str] = []
        assert deliver(journal, store, told.append) == []
        assert told == [planned(seed).config.identity for seed in seeds]
        assert not journal.folder.exists()
        assert len(trial_runs(store)) == 4
        _, records = again(store, folder)
        assert {record.config.seed for record in records} == set(seeds)
        assert {record.result.status for record in records} == {"finished"}

    def test_a_trial_that_ran_again_is_delivered_as_it_ended_last(self, store, journal, folder):
        failed = self.entry(1)
        failed.result.status, failed.result.error = "failed", "OSError: full"
        for entry in (failed, self.entry(2), self.entry(1)):
            journal.add(entry)
        assert [entry.planned.config.seed for entry in journal.entries()] == [2, 1]
        assert deliver(journal, store) == []
        _, records = again(store, folder)
        assert {(record.config.seed, record.result.status) for record in records} == {
            (1, "finished"),
            (2, "finished"),
        }

    @pytest.mark.parametrize("complete", [True, False])
    def test_a_driver_killed_while_it_delivered_doubles_nothing(self, store, journal, folder, tmp_path, complete):
        journal.add(self.entry(1))
        shutil.copytree(journal.folder, tmp_path / "copy")
        assert deliver(journal, store) == []
        (tmp_path / "copy").rename(journal.folder)  # as if it had not been removed
        before = {key: history(store, key) for key in only_run(store).data.metrics}
        if not complete:
            store.client.update_run(only_run(store).info.run_id, status="RUNNING")
        assert deliver(journal, StudyExperiment(store.uri, store.study, folder)) == []
        assert only_run(store).info.status == "FINISHED"
        assert {key: history(store, key) for key in only_run(store).data.metrics} == before
        assert set(before) >= {"loss/depth", "final_val/normals", "steps"}

    def test_incomplete_folders_are_no_entries(self, journal):
        journal.add(self.entry(1))
        kept = journal.add(self.entry(2))
        removed = journal.add(self.entry(3))
        (removed.folder / "trial.json").unlink()  # delivered, and the driver killed while it removed the rest
        shutil.copytree(kept.folder, journal.folder / ".half")  # killed before the rename
        first = sorted(journal.folder.iterdir())[1]
        (first / "trial.json").write_text('{"config": ')
        assert [entry.planned.config.seed for entry in journal.entries()] == [2]
        assert first.exists()  # a person may still want it
        assert not removed.folder.exists()
        assert (journal.folder / ".half").exists()  # a driver that lives may be writing it
        journal.tidy()
        assert not (journal.folder / ".half").exists()

    def test_trials_are_delivered_if_the_folder_cannot_be_written(self, store, tmp_path):
        (tmp_path / "file").touch()
        writer = MlflowWriter(store, "parent", Outbox(tmp_path / "file" / "undelivered"))
        writer.trial_started(planned())
        writer.trial_ended(planned(), result())
        assert writer.close() == []
        assert writer.last_fault.endswith("cannot be written: Not a directory")
        assert only_run(store).info.status == "FINISHED"
        assert [file.path for file in store.client.list_artifacts(only_run(store).info.run_id)] == [
            "trajectory.parquet"
        ]

    def test_delivery_stops_in_time_if_the_backend_refuses_everything(self, store, journal, monkeypatch):
        for seed in range(3):
            journal.add(self.entry(seed))
        store.client.delete_experiment(store.experiment_id)  # it answers, and refuses
        assert len(deliver(journal, store)) == 3
        monkeypatch.setattr("hpo.tracking.delivery.CLOSE_SECONDS", -1.0)
        refused, waiting = deliver(journal, store)
        assert refused.startswith(f"MLflow did not accept {planned(0).name}: ")
        assert waiting == f"3 trials wait in {journal.folder} for the next command"

    def test_a_trial_that_ran_again_keeps_nothing_of_its_failure(self, store, journal, folder):
        failed = EndedTrial(planned(), "parent", 1, 2, result("failed", alarms=["of the failure"], resumed=[7]))
        journal.add(failed)
        assert deliver(journal, store) == []
        journal.add(EndedTrial(planned(), "parent", 3, 4, result()))
        assert deliver(journal, store) == []
        _, (record,) = again(store, folder)
        assert (record.result.status, record.result.alarms, record.result.resumed) == ("finished", [], [])


class TestBacklog:
    def test_the_outbox_is_listed_once_however_many_trials_wait(self, journal, monkeypatch):
        listings = []
        folders = Outbox._folders
        monkeypatch.setattr(Outbox, "_folders", lambda outbox: listings.append(1) or folders(outbox))
        for seed in range(20):
            journal.add(EndedTrial(planned(seed), "parent", 0, 1, result()))
        assert len(listings) == 1
        assert len(journal) == 20

    def test_a_trial_that_ends_again_replaces_what_waits_of_it(self, journal):
        journal.add(EndedTrial(planned(1), "parent", 0, 1, result("failed")))
        journal.add(EndedTrial(planned(2), "parent", 0, 1, result()))
        for outbox in (journal, Outbox(journal.folder)):  # of this launch, and of the next one
            outbox.add(EndedTrial(planned(1), "parent", 0, 2, result()))
            found = {entry.planned.config.seed: entry.result.status for entry in outbox.entries()}
            assert found == {1: "finished", 2: "finished"}
            assert len(outbox) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
class TestServer:
    """A server that stops, comes back, and loses an answer."""

    def test_trials_arrive_when_a_stopped_server_is_back(self, server, journal, tmp_path, monkeypatch):
        monkeypatch.setattr(hpo.tracking.delivery, "AWAY_SECONDS", 0.2)
        store = StudyExperiment(server.url, "interrupted server", tmp_path)
        writer = MlflowWriter(store, store.start_launch("name: x"), journal)
        first, second, open_one = planned(1), planned(2), planned(3)
        writer.trial_started(first)
        wait_until(lambda: store.run_of(first.config.identity))
        server.stop()
        for trial in (second, open_one):
            writer.trial_started(trial)
        for trial in (first, second):
            writer.trial_reported(trial, report(1))
            writer.trial_ended(trial, result())
        assert [entry.planned for entry in journal.entries()] == [first, second]
        wait_until(lambda: writer.faults)
        server.start()
        wait_until(lambda: not len(journal) and store.run_of(open_one.config.identity), what="the delivery")
        assert writer.close() == []
        runs = trial_runs(store)
        states = {run.data.tags["gradsweep.seed"]: run.info.status for run in runs}
        assert states == {"1": "FINISHED", "2": "FINISHED", "3": "KILLED"}
        assert all(run.data.params["alpha"] == "0.5" for run in runs)
        assert len(StudyExperiment(server.url, "interrupted server", tmp_path).records()) == 2

    def test_undelivered_trials_wait_for_the_next_command(self, server, journal, tmp_path, monkeypatch):
        monkeypatch.setattr(hpo.tracking.delivery, "CLOSE_SECONDS", 1.0)
        store = StudyExperiment(server.url, "lost server", tmp_path)
        writer = MlflowWriter(store, store.start_launch("name: x"), journal)
        server.stop()
        writer.trial_started(planned(1))
        writer.trial_ended(planned(1), result())
        writer.trial_started(planned(2))
        assert [entry.planned for entry in writer.close()] == [planned(1)]
        assert re.search("Connection refused|failed with exception|Max retries", writer.last_fault)
        server.start()
        other = StudyExperiment(server.url, "lost server", tmp_path)
        assert deliver(journal, other) == []
        (run,) = trial_runs(other)
        assert (run.info.status, run.data.tags["gradsweep.seed"]) == ("FINISHED", "1")

    def test_a_run_whose_creation_was_not_answered_is_not_created_again(self, server, journal, tmp_path):
        with cut_answers(server.port, b"POST /api/2.0/mlflow/runs/create") as proxy:
            store = StudyExperiment(f"http://127.0.0.1:{proxy.port}", "lost answer", tmp_path)
            writer = MlflowWriter(store, "parent", journal)
            proxy.cuts = 1
            writer.trial_started(planned(1))
            wait_until(lambda: writer.faults)
            writer.trial_ended(planned(1), result())
            assert writer.close() == []
            assert proxy.cuts == 0
        (run,) = trial_runs(store := StudyExperiment(server.url, "lost answer", tmp_path))
        assert run.info.status == "FINISHED"

    def test_scores_are_written_in_several_requests_at_once(self, server, journal, tmp_path, monkeypatch):
        store = StudyExperiment(server.url, "scores", tmp_path)
        trials = [planned(seed) for seed in range(2 * AT_ONCE)]
        for trial in trials:
            write(store, journal, trial, result())
        together, log = threading.Barrier(AT_ONCE, timeout=60), store.client.log_batch

        def log_together(*asked, **named):
            together.wait()
            log(*asked, **named)

        monkeypatch.setattr(store.client, "log_batch", log_together)
        store.log_scores({trial.config.identity: {"score/val": 1.0} for trial in trials})
        for run in trial_runs(store):
            points = store.client.get_metric_history(run.info.run_id, "score/val")
            assert [point.value for point in points] == [1.0]

    def test_two_studies_behind_a_proxy_that_fails_now_and_then_lose_and_double_nothing(
        self, server, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(hpo.tracking.delivery, "FLUSH_SECONDS", 0.05)
        studies, trials = ("one study", "another study"), [planned(seed) for seed in range(8)]
        with UnreliableProxy(server.port, share=0.0, delay=0.002) as proxy:
            stores = [StudyExperiment(proxy.url, name, tmp_path) for name in studies]
            writers = [
                MlflowWriter(store, store.start_launch("name: x"), Outbox(tmp_path / store.study)) for store in stores
            ]
            proxy.share = 0.15
            for trial in trials:
                for writer in writers:
                    writer.trial_started(trial)
                    writer.trial_reported(trial, report(1))
                    writer.trial_reported(trial, report(2))
                    writer.trial_ended(trial, result())
            wait_until(lambda: not any(len(Outbox(tmp_path / name)) for name in studies), what="the deliveries")
            assert [writer.close() for writer in writers] == [[], []]
            assert all(proxy.counts[fault] for fault in FAULTS), proxy.counts
        for name in studies:
            store = StudyExperiment(server.url, name, tmp_path)
            runs = trial_runs(store)
            assert sorted(int(run.data.tags["gradsweep.seed"]) for run in runs) == list(range(len(trials)))
            assert {run.info.status for run in runs} == {"FINISHED"}
            for run in runs:
                points = store.client.get_metric_history(run.info.run_id, "loss/depth")
                assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5)]
                assert [file.path for file in store.client.list_artifacts(run.info.run_id)] == [TRAJECTORY]


class _Proxy:
    """Passes connections on to a port, and cuts ``cuts`` of those that ask for something before the answer."""

    def __init__(self, port: int, request: bytes) -> None:
        self._target, self._request, self.cuts = port, request, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Request by request: HTTP/1.1 keeps a connection."""
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, suppress(OSError):
            asked = False
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for one in ready:
                    content = one.recv(65536)
                    if one is client:
                        asked = content.startswith(self._request) or (asked and not content.startswith(b"POST"))
                        server.sendall(content)
                    elif asked and self.cuts:
                        self.cuts -= 1
                        return
                    else:
                        client.sendall(content)
                    if not content:
                        return

    def close(self) -> None:
        self._listener.close()


@contextmanager
def cut_answers(port: int, request: bytes) -> Iterator[_Proxy]:
    proxy = _Proxy(port, request)
    yield proxy
    proxy.close()
