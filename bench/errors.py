"""What a user can mend."""


class BadInput(ValueError):
    """One line on stderr, exit code 2."""
