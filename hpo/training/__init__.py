"""Training one trial or a cohort of them. Needs torch alone."""
