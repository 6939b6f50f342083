"""Train one trial or a cohort of trials. Depends only on torch."""
