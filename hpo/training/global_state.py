"""Global state that training depends on: saved before a trial, restored after it. Depends only on torch and numpy."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from hpo.training import torch_private

_UNREADABLE = object()
PASSES = 2  # over the pieces; writing one setting of TF32 changes others


@dataclass(frozen=True)
class Piece:
    """A piece of global state.

    Attributes:
        name: shown to the user.
        read: returns the value, which can be compared.
        write: sets the value; ``None`` if a process cannot set it twice.
        of_thread: whether each thread has its own value.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None
    of_thread: bool = False


class GlobalState:
    """A snapshot of the global state, taken when it is created.

    Args:
        pieces: the pieces of state to save.
    """

    def __init__(self, pieces: Sequence[Piece] | None = None) -> None:
        self._found = [(piece, _read(piece)) for piece in (PIECES if pieces is None else pieces)]

    @classmethod
    def of_thread(cls) -> GlobalState:
        """Return a snapshot of the settings that a new thread does not inherit from its parent thread."""
        return cls([piece for piece in PIECES if piece.of_thread])

    def changed(self) -> list[str]:
        """Return the names of the pieces that have changed."""
        return list(dict.fromkeys(piece.name for piece, _ in self._changed()))

    def _changed(self) -> list[tuple[Piece, Any]]:
        return [(piece, found) for piece, found in self._found if _differs(_read(piece), found)]

    def put_back(self) -> list[str]:
        """Restore all pieces; return the names of those that could not be restored."""
        for _ in range(PASSES):
            if not (changed := self._changed()):
                return []
            for piece, found in changed:
                if piece.write is not None and found is not _UNREADABLE:
                    with suppress(Exception):  # `changed` reports the failure
                        piece.write(found)
        return self.changed()


@dataclass
class Scope:
    """The outcome of `as_found`, known at its end.

    Attributes:
        stuck: names of the pieces that could not be restored.
    """

    stuck: list[str] = field(default_factory=list)

    @property
    def alarms(self) -> list[str]:
        """The alarms for the user."""
        if not self.stuck:
            return []
        return [
            f"changed {', '.join(self.stuck)} of its process, which cannot be restored: "
            "trials that ran in it later may differ"
        ]


@contextmanager
def as_found() -> Iterator[Scope]:
    """Restore the global state after the block, even after an error; autograd is enabled inside."""
    scope, before = Scope(), GlobalState()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield scope
    finally:
        scope.stuck = before.put_back()


def _read(piece: Piece) -> Any:
    try:
        return piece.read()
    except Exception:  # unknown to this build or release of torch
        return _UNREADABLE


def _differs(now: Any, found: Any) -> bool:
    return now is not found and bool(now != found)


def _tensor_type() -> str:
    """``torch``, or ``torch.cuda`` after `torch.set_default_tensor_type`."""
    return torch.Tensor().type().rpartition(".")[0]


def _set_tensor_type(found: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, of which its caller has been warned
        torch.set_default_tensor_type(f"{found}.FloatTensor")


def _flag(name: str, owner: Any, attribute: str) -> Piece:
    return Piece(name, partial(getattr, owner, attribute), partial(setattr, owner, attribute))


def _autocast(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _set_autocast(device: str, found: tuple[bool, torch.dtype]) -> None:
    torch.set_autocast_enabled(device, found[0])
    torch.set_autocast_dtype(device, found[1])


def _autocast_nesting() -> int:
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return int(depth)


def _set_autocast_nesting(found: int) -> None:
    while _autocast_nesting() > found:
        torch.autocast_decrement_nesting()
    while _autocast_nesting() < found:
        torch.autocast_increment_nesting()
    torch.clear_autocast_cache()


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(found: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(found[0], warn_only=found[1])


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _flushes_denormal() -> bool:
    """Return whether denormal numbers are flushed to 0, seen from a product, since torch has no function for it."""
    smallest = float(sys.float_info.min)
    return smallest * 0.5 == 0.0


def _set_filters(found: tuple[Any, ...]) -> None:
    warnings.resetwarnings()  # it also makes Python forget which warnings it has shown under other filters
    warnings.filters[:] = found  # type: ignore[index]


def _set_environment(found: dict[str, str]) -> None:
    for name in set(os.environ).difference(found):
        del os.environ[name]
    for name, value in found.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _cuda_device() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


def _set_cuda_device(found: int | None) -> None:
    if found is not None:
        torch.cuda.set_device(found)


def _attention(kind: str) -> Piece:
    owner = torch.backends.cuda
    return Piece(f"{kind} attention", getattr(owner, f"{kind}_sdp_enabled"), getattr(owner, f"enable_{kind}_sdp"))


_TF32 = "precision of float32 products"
_TF32_FLAGS = [  # the older names first: writing one of these changes the newer, too
    _flag(_TF32, torch.backends.cuda.matmul, "allow_tf32"),
    _flag(_TF32, torch.backends.cudnn, "allow_tf32"),
    _flag(_TF32, torch.backends.mkldnn, "allow_tf32"),
    Piece(_TF32, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _flag(_TF32, torch.backends, "fp32_precision"),
    _flag(_TF32, torch.backends.cudnn, "fp32_precision"),
    *(
        _flag(_TF32, getattr(backend, kind, None), "fp32_precision")
        for backend in (torch.backends.cudnn, torch.backends.mkldnn)
        for kind in ("conv", "rnn", "matmul")
    ),
    _flag(_TF32, torch.backends.cuda.matmul, "fp32_precision"),
]

PIECES: list[Piece] = [
    Piece(
        "function modes of torch", torch_private.function_modes, torch_private.set_function_modes, of_thread=True
    ),  # first: they act on others
    Piece("default device", torch_private.default_device, torch.set_default_device, of_thread=True),
    Piece("default tensor type", _tensor_type, _set_tensor_type),
    Piece("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Piece("grad mode", torch.is_grad_enabled, torch.set_grad_enabled, of_thread=True),
    Piece("inference mode", torch.is_inference_mode_enabled, None, of_thread=True),  # `as_found` ends it
    Piece("autocast", partial(_autocast, "cpu"), partial(_set_autocast, "cpu"), of_thread=True),
    Piece("autocast", partial(_autocast, "cuda"), partial(_set_autocast, "cuda"), of_thread=True),
    Piece("autocast", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, of_thread=True),
    Piece("autocast", _autocast_nesting, _set_autocast_nesting, of_thread=True),
    Piece("deterministic algorithms", _deterministic, _set_deterministic),
    _flag("filling of uninitialized memory", torch.utils.deterministic, "fill_uninitialized_memory"),
    Piece("anomaly detection", _anomaly, lambda found: torch.autograd.set_detect_anomaly(*found)),
    *(_flag("flags of cuDNN", torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
    _flag("flags of cuDNN", torch.backends.cudnn, "benchmark_limit"),
    *(_flag("flags of oneDNN", torch.backends.mkldnn, name) for name in ("enabled", "deterministic")),
    *(_attention(kind) for kind in ("flash", "mem_efficient", "math", "cudnn")),
    *_TF32_FLAGS,
    *(
        _flag("reduced precision of products", torch.backends.cuda.matmul, f"allow_{kind}")
        for kind in ("fp16_reduced_precision_reduction", "bf16_reduced_precision_reduction", "fp16_accumulation")
    ),
    Piece("hooks on every module or optimizer", torch_private.read_hooks, torch_private.write_hooks),
    Piece("number of threads", torch.get_num_threads, torch.set_num_threads, of_thread=True),
    Piece("number of interop threads", torch.get_num_interop_threads, None),
    Piece("flushing of denormal numbers", _flushes_denormal, torch.set_flush_denormal, of_thread=True),
    Piece("current GPU", _cuda_device, _set_cuda_device, of_thread=True),
    Piece(
        "sharing strategy",
        torch.multiprocessing.get_sharing_strategy,
        torch.multiprocessing.set_sharing_strategy,
    ),
    Piece(
        "start method of processes",
        partial(multiprocessing.get_start_method, allow_none=True),
        lambda found: multiprocessing.set_start_method(found, force=True),
    ),
    Piece("numpy's error handling", np.geterr, lambda found: np.seterr(**found), of_thread=True),
    Piece("numpy's error handling", np.geterrcall, np.seterrcall, of_thread=True),
    Piece("warning filters", lambda: tuple(warnings.filters), _set_filters),
    Piece("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Piece("garbage collection", gc.isenabled, lambda found: gc.enable() if found else gc.disable()),
    Piece("current folder", os.getcwd, os.chdir),
    Piece("environment variables", lambda: dict(os.environ), _set_environment),
]
