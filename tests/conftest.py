"""Settings and hooks of all tests."""

import os
import signal
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.helpers")  # so that an assertion there says as much as one in a test

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Without bytecode files, each command and worker would compile everything that it imports: seconds of CPU.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a suite in the background, and so of all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # small networks: more threads only wait for each other
# Limits in milliseconds for an example would fail where the machine is slow or does other things too.
settings.register_profile("gradsweep", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gradsweep")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `make chaos` alone runs. Files with slow tests come first: begun last, one of them would keep a
    single process busy to the end.
    """
    if "GRADSWEEP_CHAOS_KILLS" not in os.environ:
        left_out = [item for item in items if item.get_closest_marker("chaos") is not None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where torch sees none; .ci/run knows the reason by its first words."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can see")
