"""Errors that end a command with one line."""


class BadInput(ValueError):
    """An error of the user: one line on stderr, exit code 2."""


class Wrong(Exception):
    """A result that differs from the reference: exit code 1, and nothing is timed."""
