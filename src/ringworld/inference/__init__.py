"""Inference: prompts to ids, ids to more ids or to losses, and one object that joins them for people."""
