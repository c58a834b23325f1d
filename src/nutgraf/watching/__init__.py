"""Read a study from its run folder while it runs."""
