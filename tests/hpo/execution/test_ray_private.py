"""After an upgrade of Ray: the private names of hpo/execution/ray_private.py; test_ray_start.py has the others."""

from __future__ import annotations

from importlib import import_module

import pytest

NAMES = [
    ("ray._private.runtime_env.constants", "RAY_JOB_CONFIG_JSON_ENV_VAR"),
    ("ray.tune.execution.class_cache", "ENV_VARS_TO_PROPAGATE"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_private_name_that_we_use_is_still_there(module: str, name: str) -> None:
    assert hasattr(import_module(module), name), (
        f"Ray has no {module}.{name} any more; hpo/execution/ray_private.py uses it"
    )


def test_tune_sends_no_key_of_a_cloud_to_its_workers() -> None:
    import hpo.execution.ray_tune  # noqa: F401

    names = import_module("ray.tune.execution.class_cache").ENV_VARS_TO_PROPAGATE
    assert names
    assert [name for name in names if name.startswith("AWS_")] == []
