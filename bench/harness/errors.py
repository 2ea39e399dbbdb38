"""Errors that end a command with one line."""

from gaussreg_fast.errors import InputError


class BadInput(InputError):
    """An error of the user: one line on stderr, exit code 2."""


class Wrong(Exception):
    """A result that differs from the reference: exit code 1, and nothing is timed."""
