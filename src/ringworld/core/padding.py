"""What marks the padding of a packed sequence, to those who write it and those who read it."""

from typing import Final

PADDING_ORDER: Final = -1
"""The `order` of a token that sees nothing and that nothing sees; its `first` is 0."""
