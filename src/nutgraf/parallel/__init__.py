"""Do work in processes, or on a Ray cluster."""
