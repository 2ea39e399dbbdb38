"""`gaussreg-fast` and `python -m gaussreg_fast`: the command line."""

import sys


def main() -> None:
    """Run the command line; if its packages are missing, say which ones to install."""
    try:
        from gaussreg_fast.cli import app
    except KeyboardInterrupt:  # the imports take seconds
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        print(
            f"error: the command line needs {error.name}: pip install 'gaussreg_fast[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    app.run()


if __name__ == "__main__":
    main()
