"""Trials in frameworks that own the training loop; each file needs its framework, and is imported on demand.

Users import them as `gradsweep.lightning` and `gradsweep.transformers`.
"""
