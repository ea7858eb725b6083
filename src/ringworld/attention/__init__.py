"""Exact attention over a sequence that no device holds: kernels, ring, layouts, decoding."""
