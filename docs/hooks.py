"""MkDocs hooks: replace links to files of the repository, and insert the help of commands."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.hooks.gaussreg_fast")  # a warning here fails a strict build
ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\.?/[^)#\s]+)(#[^)\s]*)?\)")
HELP = re.compile(r"^<!-- help: (.+?) -->$", re.MULTILINE)
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "TYPER_USE_RICH": "0"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links to files outside docs/ by their names, and insert the help of commands."""
    here = Path(page.file.abs_src_path).parent
    markdown = LINK.sub(lambda link: _outside(link, here), markdown)
    return HELP.sub(lambda command: _help(command[1]), markdown)


def _outside(link: re.Match[str], here: Path) -> str:
    """Return the link's text and the file's path, because the site has no repository files."""
    target = (here / link[2]).resolve()
    if target.is_relative_to(ROOT / "docs"):
        return link[0]
    if not target.exists():
        LOG.warning("%s: there is no %s", here.relative_to(ROOT), link[2])
    path = target.relative_to(ROOT).as_posix()
    text = link[1].strip("`")
    return f"`{path}`" if path.endswith(text) else f"{link[1]} (`{path}`)"


def _help(command: str) -> str:
    words = shlex.split(command)
    python = Path(sys.executable)
    words[0] = str(python if words[0] == "python" else python.with_name(words[0]))
    done = subprocess.run(
        [*words, "--help"], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **PLAIN}
    )
    if done.returncode:
        LOG.warning("%s --help failed: %s", command, done.stderr.strip())
    return f"## `{command}`\n\n```text\n{done.stdout.strip()}\n```"
