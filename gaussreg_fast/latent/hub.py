"""Download files from the Hugging Face hub, with a reason where a download fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaussreg_fast.errors import first_line


class HubError(Exception):
    """A file could not be downloaded from the hub; the message is a clause that says why."""


def download(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """Return the local copy of a repository's file, downloaded if needed; None if it has none.

    Raises:
        HubError: the repository or revision does not exist, its licence is not accepted, or the
            hub cannot be reached.
        ModuleNotFoundError: the hub's client is not installed.
    """
    from huggingface_hub import hf_hub_download

    try:
        with quiet(bars=True):  # without the client's own warnings, one per retry
            return Path(hf_hub_download(repository, filename, revision=revision))
    except ImportError:
        raise
    except Exception as error:  # the client's exception types differ between its versions
        why = _why(error, revision)
        if why is None:
            return None
        raise HubError(why) from error


def file_names(repository: str, revision: str | None = None) -> list[str]:
    """Return the names of a repository's files.

    Raises:
        HubError: see `download`.
    """
    from huggingface_hub import list_repo_files

    try:
        return list(list_repo_files(repository, revision=revision))
    except Exception as error:  # the client's exception types differ between its versions
        raise HubError(_why(error, revision) or first_line(error)) from error


def _why(error: Exception, revision: str | None) -> str | None:
    """Say why a download failed; None if the repository exists and has no such file."""
    from huggingface_hub.utils import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # In this order, because earlier classes are subclasses of later ones.
    if isinstance(error, GatedRepoError):
        return "it is gated: accept its licence on the hub first, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            "it is no local folder, and the Hugging Face hub has no repository of that name that "
            "you may read"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if isinstance(error, LocalEntryNotFoundError):  # nothing cached, and no connection
        return f"the Hugging Face hub could not be reached ({first_line(error)})"
    if isinstance(error, EntryNotFoundError):
        return None
    return f"it could not be fetched from the Hugging Face hub ({first_line(error)})"


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silence transformers and the hub's client; warnings that matter are raised as errors.

    Args:
        bars: keep the progress bars.
    """
    import huggingface_hub.utils.logging as hub_logging
    from transformers.utils import logging

    before, hub_before = logging.get_verbosity(), hub_logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if shown and not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        hub_logging.set_verbosity(hub_before)
        if shown:
            logging.enable_progress_bar()
