"""Read articles and turn them into prompts."""
