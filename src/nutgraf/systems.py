"""The systems of a study: whatever turns an article into a summary, measured alike."""

SYSTEMS = ("lead3", "zero_shot", "baseline", "best")
MODELS = ("zero_shot", "baseline", "best")
TRAINED = ("baseline", "best")
