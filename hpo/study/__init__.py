"""A study file, the trials that follow from it, and which of them runs next."""
