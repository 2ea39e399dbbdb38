"""`gaussreg-fast` and `python -m gaussreg_fast.latent`."""

import sys


def main() -> None:
    """Runs the command line, or says what to install for it."""
    try:
        from gaussreg_fast.latent import cli
    except KeyboardInterrupt:  # the imports take seconds
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        print(
            f"error: the command line needs {error.name}: pip install 'gaussreg_fast[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    cli.run()


if __name__ == "__main__":
    main()
