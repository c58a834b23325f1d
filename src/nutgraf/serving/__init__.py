"""Serve the model on a web page and an HTTP API."""
