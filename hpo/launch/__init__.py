"""From a study file to its verdict."""
