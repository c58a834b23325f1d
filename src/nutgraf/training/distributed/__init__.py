"""Train one adapter in several processes."""
