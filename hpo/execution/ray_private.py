"""Private names of Ray. Only this module and `ray_start.py` use any.

After an upgrade of Ray, `tests/hpo/execution/test_ray_private.py` reports which are missing.
"""

from __future__ import annotations

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.tune.execution import class_cache

SUBMITTED_JOB = RAY_JOB_CONFIG_JSON_ENV_VAR
"""Environment variable that ``ray job submit`` sets: it has sent the code to the nodes."""


def keep_cloud_keys_here() -> None:
    """Stop Tune from sending the driver's AWS keys to workers, where Ray logs them. Nodes have their own."""
    class_cache.ENV_VARS_TO_PROPAGATE = frozenset(
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
    )
