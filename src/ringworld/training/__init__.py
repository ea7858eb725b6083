"""Training: stages of growing context on one state, resumable at any moment."""
