"""Keep the run folder, and a copy of it elsewhere."""
