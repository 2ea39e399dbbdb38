"""`python -m bench` as a function."""

from bench import cli


def run(*arguments):
    """Runs `python -m bench` with these words in this process, and returns its exit code."""
    return cli.main([str(a) for a in arguments])
