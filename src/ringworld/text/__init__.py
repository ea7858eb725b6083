"""Words to token ids and back, and the one id space of words and frames."""
