"""nutgraf: fine-tune a small language model to summarize news, and show how good the result is."""

__version__ = "0.1.0"
