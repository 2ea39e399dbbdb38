"""What ends a command, and is said in one line."""


class BadInput(ValueError):
    """One line on stderr, exit code 2."""


class Wrong(Exception):
    """A result that is not the reference's: exit code 1, and nothing is timed."""
