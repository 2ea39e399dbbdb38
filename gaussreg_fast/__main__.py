"""`gaussreg-fast` and `python -m gaussreg_fast`: the command line."""

from gaussreg_fast._exit_codes import exit_code
from gaussreg_fast.errors import InputError


def main() -> None:
    """Run the command line; if its packages are missing, say which ones to install."""
    raise SystemExit(exit_code(_run))


def _run() -> None:
    try:
        from gaussreg_fast.cli.app import app
    except ModuleNotFoundError as error:
        raise InputError(
            f"the command line needs {error.name}: pip install 'gaussreg_fast[cli]'"
        ) from error
    app()


if __name__ == "__main__":
    main()
