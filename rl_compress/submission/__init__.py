"""Ray Jobs: a job runs on a cluster as it does here."""
