"""Hold the embedded pocket model and its newswire."""
