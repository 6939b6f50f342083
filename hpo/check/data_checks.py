"""Checks of tasks, data and loaders."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

from hpo.check.batch_digests import Pass, first_digests, go_through
from hpo.check.context import OTHER_SEED, SEED, CheckContext, Notes, Watched
from hpo.check.other_process import attribute_hashes, hashes_elsewhere, may_differ
from hpo.check.words import every
from hpo.core.number_format import duration
from hpo.core.text import listed, message
from hpo.problems.base import Problem, Split
from hpo.problems.data_cache import prepare_once
from hpo.training.methods import OVER_THE_RUN
from hpo.training.resumable_loader import DataOrder, seed_all

SPLITS: tuple[Split, ...] = ("train", "val", "test")
PAIRS: tuple[tuple[Split, Split], ...] = (("train", "val"), ("train", "test"), ("val", "test"))
HARMLESS = {"environment variables", "warning filters"}  # importing a library changes these
SLOW = 5.0  # seconds after which preparing a second time is worth a word


def check_tasks(context: Watched) -> Notes:
    """Two or more."""
    better = {"minimize": "lower", "maximize": "higher"}
    tasks = context.problem.tasks
    found = listed(f"{task.name} ({task.metric}, {better[task.direction]} is better)" for task in tasks)
    if len(tasks) > 1:
        yield "ok", f"{len(tasks)}: {found}", ""
    else:
        yield "warning", f"one: {found}", "two or more, since weights are relative to each other"


def check_data(context: CheckContext) -> Notes:
    """They can be prepared, twice, and have one name."""
    seconds, context.hash = _prepare(context.problem)
    if not isinstance(context.hash, str):
        yield "fault", f"data_hash() gives {type(context.hash).__name__}", "text"
        return
    again, same = _prepare(context.load())
    if same != context.hash:
        found = "data_hash() differs between two instances with the same arguments"
        yield "fault", found, "the same text for the same data in every process: define your own data_hash()"
    elif again > SLOW:
        found = f"prepare() takes {duration(seconds)}, and {duration(again)} when called again"
        yield "warning", found, "keep on disk what it makes, since each worker process calls it"
    else:
        yield "ok", f"ready in {duration(seconds)}, hash {context.hash}", ""


def _prepare(problem: Problem) -> tuple[float, str]:
    start = time.perf_counter()
    prepare_once(problem)
    return time.perf_counter() - start, problem.data_hash()


def check_hash(context: CheckContext) -> Notes:
    """The same after use, since a worker asks before each trial, and in another process, as each worker is one."""
    if context.problem.data_hash() != context.hash:
        found = "data_hash() has changed since the problem was used"
        yield "fault", found, "the same text before and after: define your own data_hash()"
    elif not may_differ(context.name, context.problem):
        yield "ok", "the same after use", ""
    else:
        yield from _compare_processes(context)


def _compare_processes(context: CheckContext) -> Notes:
    allowed = "the same text for the same data in every process: define your own data_hash()"
    try:
        found, attributes = hashes_elsewhere(context.name, context.arguments)
    except (OSError, RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
        yield "warning", f"data_hash() could not be asked in another process: {message(error)}", allowed
        return
    if found == context.hash:
        yield "ok", "the same after use and in another process", ""
        return
    own = attribute_hashes(context.load())
    differing = [name for name in own if attributes.get(name) != own[name]]
    cause = f", because of the attribute {every(differing)}" if differing else ""
    yield "fault", f"data_hash() differs between two processes{cause}", allowed


def check_global_state(context: CheckContext) -> Notes:
    """Warn if the problem leaves global state changed, which later training in the process would notice."""
    if left := {name: subject for name, subject in context.left.items() if name not in HARMLESS}:
        found = every(f"{name} (seen at: {subject})" for name, subject in left.items())
        allowed = (
            "settings made where the module is imported; each trial begins with these, whatever another has left"
        )
        yield "warning", f"the problem's code leaves changed: {found}", allowed
    else:
        yield "ok", "the problem's code leaves it as it is", ""


def check_batches(context: CheckContext) -> Notes:
    """Each split has some; their order hangs on the seed, and for train on the epoch."""
    for split in SPLITS:
        seed_all(SEED)
        loader = context.problem.loader(split, SEED)
        seen = context.passes[split] = go_through(DataOrder(loader, context.device).epoch())
        if not seen.batches:
            yield "fault", f"loader({split!r}) gives no batch", "at least one"
        elif split == "train":
            yield from _training_batches(context, loader, seen)
        elif _first(context, split)[: len(seen.first)] != seen.first:
            yield "warning", f"loader({split!r}) gives other batches when called again", "the same"


def _training_batches(context: CheckContext, loader: Any, seen: Pass) -> Notes:
    used_up = seen.complete and next(iter(loader), None) is None
    if used_up or _is_iterator(loader):
        found = f"loader('train') gives {type(loader).__name__}, which can be gone through once"
        yield "fault", found, "an object whose iter() begins the next epoch, such as a DataLoader"
        return
    length = _length(loader)
    context.steps = length or (seen.batches if seen.complete else None)
    batches = f"train: {context.steps:,} an epoch" if context.steps else "train: how many an epoch is unknown"
    if length is None:
        batches += f" (it has no len(), which the recipe {every(OVER_THE_RUN)} needs)"
    if not seen.size:
        yield "warning", f"{batches}, without tensors that would show their order", "a new order each epoch"
        return
    order = context.order()
    first, second = first_digests(order.epoch()), first_digests(order.epoch())
    if first[: len(seen.first)] != seen.first:
        found = f"{batches}, which differ between two loaders of one seed"
        yield "fault", found, "an order fixed by the seed, so that all arms see the same batches"
    elif context.steps == 1:
        yield "ok", f"{batches}, fixed by the seed", ""
    elif first == second:
        yield "warning", f"{batches}, in the same order in every epoch", "a new order each epoch, fixed by the seed"
    elif _first(context, "train", OTHER_SEED) == first:
        yield "warning", f"{batches}, in the same order for every seed", "an order fixed by the seed"
    else:
        yield "ok", f"{batches}, in a new order each, fixed by the seed", ""


def _first(context: CheckContext, split: Split, seed: int = SEED) -> list[int]:
    return first_digests(context.order(split, seed).epoch())


def _is_iterator(loader: Any) -> bool:
    """A generator, or what `map`, `zip` and itertools give."""
    return isinstance(loader, Iterator) and type(loader).__module__ in ("builtins", "itertools")


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # of the object, or of a DataLoader over a stream
        return None


def check_splits(context: CheckContext) -> Notes:
    """No example is in two of them, as far as their tensors tell."""
    seen = context.passes
    cut = "" if all(each.complete for each in seen.values()) else ", not all"
    compared = f"compared: {every(f'{each.examples:,} of {split}' for split, each in seen.items())}{cut}"
    common = {f"{one} and {other}": len(seen[one].rows & seen[other].rows) for one, other in PAIRS}
    if not all(each.rows for each in seen.values()):
        yield "warning", "batches hold no tensors by which examples could be compared", "no example in two splits"
    elif found := every(f"{count:,} in {pair}" for pair, count in common.items() if count):
        yield "warning", f"the same examples in two splits: {found} ({compared})", "none, unless data repeat"
    else:
        yield "ok", f"no example is in two splits ({compared})", ""


def check_resuming(context: CheckContext) -> Notes:
    """Check that an interrupted trial finds its place in the data."""
    order = context.order()
    next(order.epoch())
    if order.state()["begin"]["loader"] is None:
        found = "an interrupted trial loads the batches of its finished epochs again, without training"
        yield "ok", f"{found}; state_dict() and load_state_dict() of the loader would spare that", ""
    else:
        yield "ok", "an interrupted trial goes on at its place in the data", ""
