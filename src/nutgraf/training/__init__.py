"""Train an adapter: fit() and what it needs."""
