"""MLflow: a study's experiment, how a trial is written as a run and read back, and the way there."""
