"""Turn records into pages, pictures and model cards."""
