"""Write summaries: models, extracts, rivals."""
