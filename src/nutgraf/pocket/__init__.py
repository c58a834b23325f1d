"""The embedded default: a synthetic newswire and a small language model pretrained on it."""
