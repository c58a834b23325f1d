"""Measure what a summary is worth."""
