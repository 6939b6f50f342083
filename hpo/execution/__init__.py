"""Ray: the cluster, its workers, and attempts at trials."""

import logging

import hpo.core.environment  # noqa: F401 - before ray, which reads it once

logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # in a notebook it asks for ipywidgets
