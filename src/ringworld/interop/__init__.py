"""Tables to and from other people's weights."""
