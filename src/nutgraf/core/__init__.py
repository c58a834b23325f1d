"""Handle files, errors, signals and the console."""
