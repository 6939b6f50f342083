"""Ray: the cluster, its workers, and attempts at trials."""

import hpo.core.environment  # noqa: F401 - before ray, which reads it once
