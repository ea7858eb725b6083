"""The palette, and how lengths are written, for the report and for the pictures of benchmarks.

Colors are those of Okabe and Ito ("Color Universal Design", 2008): none relies on red against green.
"""

INK, MUTED, RULE, GROUND, ACCENT = "#1a1c20", "#6b7078", "#e2e4e8", "#fffffe", "#0072b2"
LINES = ("#b8bcc4", "#56b4e9", "#0072b3", "#009e73", "#e69f00", "#cc79a7")
"""The first is for what others are compared with: before training, peers."""


def short(tokens: int) -> str:
    """Return a number of tokens as people say it: `256`, `4K`, `1M`; other numbers as they are."""
    for size, name in ((2**20, "M"), (2**10, "K")):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{name}"
    return str(tokens)
