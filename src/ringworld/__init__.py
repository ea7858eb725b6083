"""World models of million-token video and language, trained with ring attention."""

__version__ = "0.1.0"
