"""What a user can mend."""


class InputError(ValueError):
    """Bad input: the message is one line that names what came and what is allowed."""
