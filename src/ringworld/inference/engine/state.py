"""What an engine reports."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineState:
    """What an engine has done, and does now."""

    waiting: int
    """Requests."""
    running: int
    """Sequences that are read or written; a guided request has two."""
    held_pages: int
    """Pages that requests hold."""
    pages: int
    """Pages that there are."""
    read_tokens: int
    """Of prompts, so far."""
    reused_tokens: int
    """Of prompts that were found in the cache, so far."""
    written_tokens: int
    """So far."""
    steps: int
    """So far."""
    preempted: int
    """How often a request gave up its pages to another, and read again."""
