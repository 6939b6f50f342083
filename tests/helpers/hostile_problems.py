"""A problem whose trials end in unusual ways or change global state, and the functions that do so."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from hpo.problems.base import Split
from tests.helpers.broken_problems import Sound
from tests.helpers.problems import Steered

SCALE = 1e-3  # of the parameter that counts the weight of `near`


class UnspeakableError(Exception):
    """An exception whose text and traceback cannot be read."""

    def __str__(self) -> NoReturn:
        raise SystemExit("no text")

    __repr__ = __str__

    @property
    def __cause__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("no cause")


class Spoilt(torch.overrides.TorchFunctionMode):
    """Doubles what `torch.Tensor.mean` gives."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return 2 * found if func is Tensor.mean else found


KEPT: list[Any] = []  # contexts that are opened and never closed, even by their destructors


def opened(context: Any) -> None:
    context.__enter__()
    KEPT.append(context)


def double_losses(module: nn.Module, inputs: Any, output: Any) -> Any:
    return 2 * output if isinstance(output, Tensor) else output


# What a trial leaves behind, by the name that `hpo.training.global_state` has for it.
SPOILS: dict[str, Callable[[], object]] = {
    "function modes of torch": lambda: opened(Spoilt()),
    "default device": lambda: torch.set_default_device("meta"),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "inference mode": lambda: opened(torch.inference_mode()),
    "autocast": lambda: opened(torch.autocast("cpu", torch.bfloat16)),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "filling of uninitialized memory": lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "flags of cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "flags of oneDNN": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "flash attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "mem_efficient attention": lambda: torch.backends.cuda.enable_mem_efficient_sdp(False),
    "math attention": lambda: torch.backends.cuda.enable_math_sdp(False),
    "cudnn attention": lambda: torch.backends.cuda.enable_cudnn_sdp(False),
    "precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "reduced precision of products": lambda: setattr(
        torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False
    ),
    "hooks on every module or optimizer": lambda: nn.modules.module.register_module_forward_hook(double_losses),
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "flushing of denormal numbers": lambda: torch.set_flush_denormal(True),
    "sharing strategy": lambda: torch.multiprocessing.set_sharing_strategy("file_system"),
    "start method of processes": lambda: multiprocessing.set_start_method(
        "fork" if multiprocessing.get_start_method(allow_none=True) == "spawn" else "spawn", force=True
    ),
    "numpy's error handling": lambda: np.seterr(all="raise"),
    "warning filters": lambda: warnings.simplefilter("error"),
    "recursion limit": lambda: sys.setrecursionlimit(400),
    "garbage collection": gc.disable,
    "current folder": lambda: os.chdir("/"),
    "environment variables": lambda: os.environ.update({"GRADSWEEP_CACHE": "/nowhere", "PYTHONHASHSEED": "7"}),
}


def spoil_all() -> None:
    """Change all global state; inference mode and similar ones last, because they forbid the rest."""
    for name in sorted(SPOILS, key=lambda name: name in ("function modes of torch", "default device")):
        SPOILS[name]()


def fork() -> None:
    """Fork, and let the child return as if nothing had happened."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)  # hangs as long as the child goes on


def raised(error: BaseException) -> Callable[[], None]:
    def deed() -> None:
        raise error

    return deed


DEEDS: dict[str, Callable[[], object]] = {
    "exits at once": lambda: os._exit(3),
    "crashes": lambda: ctypes.string_at(0),
    "SystemExit": raised(SystemExit(0)),
    "KeyboardInterrupt": raised(KeyboardInterrupt("a signal that was none")),
    "GeneratorExit": raised(GeneratorExit()),
    "StopIteration": raised(StopIteration()),
    "unspeakable": raised(UnspeakableError()),
    "long": raised(ValueError("x" * 10_000_000)),
    "odd": raised(ValueError("\ud800 \x00 \x1b[31m")),
    "spoils": spoil_all,
    "forks": fork,
}


class Hostile(Steered):
    """Trials of some static weights do what they should not, each time that they are evaluated on val.

    Args:
        folder: see `Steered`.
        deeds: a key of `DEEDS` by the weight of ``near``.
    """

    epochs = 2

    def __init__(self, folder: str, deeds: dict[str, str]) -> None:
        super().__init__(folder)
        self.deeds = deeds

    def data_hash(self) -> str:
        return "hostile"

    def build_model(self, seed: int) -> nn.Module:
        model: Any = super().build_model(seed)
        model.count = nn.ParameterDict(
            {"weight": nn.Parameter(torch.zeros(())), "steps": nn.Parameter(torch.zeros(()))}
        )
        return model

    def losses(self, model: Any, batch: Tensor) -> dict[str, Tensor]:
        """Steps of SGD add up in two parameters: the weight of ``near``, and the sum of both, 2 a step."""
        losses = super().losses(model, batch)
        count = model.count
        return {
            "near": losses["near"] + SCALE * (count["weight"] + count["steps"]),
            "far off": losses["far off"] / 100 + SCALE * count["steps"],
        }

    def evaluate(self, model: Any, split: Split) -> dict[str, float]:
        count = model.count
        weight = 2 * float(count["weight"]) / float(count["steps"])
        for at, deed in self.deeds.items() if split == "val" else []:
            if abs(weight - float(at)) < 1e-3:
                with (Path(self.folder) / "deeds").open("a") as file:
                    file.write(f"{deed}\n")
                DEEDS[deed]()
        examples = self.examples(split)
        losses = Steered.losses(self, model, examples)
        return {"near": float(losses["near"]), "far off": 1 - float(losses["far off"])}

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01)


# For `gradsweep check`.


class EndsCheck(Sound):
    """Does something in one of its methods, each time."""

    def __init__(self, where: str, deed: str) -> None:
        super().__init__()
        self._where, self._deed = where, deed

    def __getattribute__(self, name: str) -> Any:
        get = super().__getattribute__
        if name in METHODS and name == get("_where"):
            DEEDS[get("_deed")]()
        return get(name)

    def prepare(self) -> None:
        """Without one of its own a problem is not prepared."""

    def data_hash(self) -> str:
        return "ends"


METHODS = ("prepare", "data_hash", "build_model", "shared_layer", "build_optimizer", "loader", "losses", "evaluate")


class LeavesDtype(Sound):
    """Sets the default dtype for the network that it builds, each time, and rests on it later."""

    def build_model(self, seed: int) -> nn.Module:
        torch.set_default_dtype(torch.float64)
        return super().build_model(seed)

    def examples(self, split: Split) -> Tensor:
        return super().examples(split).double()

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        assert torch.get_default_dtype() == torch.float64
        return super().losses(model, batch)


class LeavesAll(Sound):
    """Its evaluation leaves everything behind."""

    def evaluate(self, model: Any, split: Split) -> dict[str, float]:
        found = super().evaluate(model, split)
        spoil_all()
        return found
