"""Needles, held-out loss, plots and the report."""
