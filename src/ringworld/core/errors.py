"""The one error that is the user's to mend."""


class InputError(ValueError):
    """A file, option or value that the user can mend; the command line prints it and exits with 2.

    The message has one form everywhere: what is wrong, what was got, what was expected, and the remedy.
    """

    def __init__(self, *, what: str, got: str, expected: str, remedy: str) -> None:
        """Keep the four parts as attributes and join them into the message."""
        super().__init__(f"{what}: got {got}, expected {expected}. {remedy}")
        self.what = what
        self.got = got
        self.expected = expected
        self.remedy = remedy
