"""MLflow: a study's experiment, how a trial is written as a run and read back, and the way there."""

import hpo.core.environment  # noqa: F401 - before mlflow, which reads it once
