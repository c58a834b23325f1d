"""Load the base and its adapters, compute losses."""
