"""Sampling, grammar and the engine: from a prompt to text, images and video."""
