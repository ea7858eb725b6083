"""Mesh, sharding table, files, checkpoints and progress: what every other area stands on."""
