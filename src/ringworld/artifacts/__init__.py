"""The folders that people hand on: tokenizer, examples, model."""
