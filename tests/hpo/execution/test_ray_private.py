"""After an upgrade of Ray: what of its private names that we use is gone, named one by one."""

from __future__ import annotations

from importlib import import_module

import pytest

NAMES = [
    ("ray._private.runtime_env.constants", "RAY_JOB_CONFIG_JSON_ENV_VAR", "hpo/execution/ray_private.py"),
    ("ray.tune.execution.class_cache", "ENV_VARS_TO_PROPAGATE", "hpo/execution/ray_private.py"),
    ("ray._private.services", "get_node", "hpo/execution/ray_start.py"),
    ("ray._private.utils", "set_sigterm_handler", "hpo/execution/ray_start.py"),
]


@pytest.mark.parametrize(("module", "name", "user"), NAMES)
def test_a_private_name_that_we_use_is_still_there(module: str, name: str, user: str) -> None:
    assert hasattr(import_module(module), name), f"Ray has no {module}.{name} any more; {user} uses it"


def test_tune_sends_no_key_of_a_cloud_to_its_workers() -> None:
    import hpo.execution.ray_tune  # noqa: F401

    names = import_module("ray.tune.execution.class_cache").ENV_VARS_TO_PROPAGATE
    assert names
    assert [name for name in names if name.startswith("AWS_")] == []
