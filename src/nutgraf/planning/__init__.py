"""Plan memory and time before a run."""
