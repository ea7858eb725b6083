"""The toy world, and the whole path from files to a report."""
