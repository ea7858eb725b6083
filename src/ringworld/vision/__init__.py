"""Frames: files to pixels, pixels to codes and back, and the training of the frame tokenizer."""
