"""The report of a run, from results as data."""
