"""What a configuration calls the chat templates."""

from typing import Literal

TemplateName = Literal["lwm", "llama-2", "own"]
"""LWM's, LLaMA-2's, or that which came with the tokenizer."""
