"""MLflow: a study's experiment, the run format of a trial in both directions, and delivery to the backend."""

import hpo.core.environment  # noqa: F401 - before mlflow, which reads it once
