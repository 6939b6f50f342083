"""A study file, its trials, and the order in which they run."""
