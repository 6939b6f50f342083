"""Ray: the cluster, its workers, and attempts at trials."""
