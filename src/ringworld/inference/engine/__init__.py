"""Continuous batching: requests of any length join and leave at every step."""
