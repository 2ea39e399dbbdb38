"""Text of the user is shown as it is: it is never markup, and any encoding can show it."""

import ast
import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import ROOT
from gaussreg_fast import _markdown

PROMPTS = [
    "a cat [/b] mat",
    "a [red|blue] cube",
    ":smile: and [bold]bold[/bold]",
    "*star* _under_ `tick` <b>tag</b> $x$ ![i](u) #1 ~~no~~ \\ 1 & 2",
    "ein Kätzchen 猫",
    "``` yaml",
]


def optimized(cli, out, *words):
    pytest.importorskip("diffusers")
    options = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    options += ["--reward", "digits-ink", "--iterations", "1", "--out", out]
    return cli("optimize", *options, *words)


def shown(page):
    """The text that a reader of a Markdown page sees."""
    markdown = pytest.importorskip("markdown")
    text = re.sub(r"<[^>]*>", "", markdown.markdown(page, extensions=["tables", "fenced_code"]))
    return html.unescape(text)


def test_prompts_and_paths_with_brackets_are_printed_as_they_are(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = optimized(cli, "out[test] [/b]")
    assert done.returncode == 0, done.stderr
    for number, prompt in enumerate(PROMPTS):
        assert f"{number:3d} {prompt!r}, seed 0: finished" in done.stdout
    assert done.stdout.endswith("wrote out[test] [/b]/report.md\n")
    page = (tmp_path / "out[test] [/b]/report.md").read_text(encoding="utf-8")
    seen = shown(page)
    for prompt in PROMPTS:
        assert f"{prompt}, 0" in seen
    assert page.rstrip().endswith("````")  # a fence longer than the one in a prompt
    again = cli("optimize", "--out", "out[test] [/b]")
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_the_demo_writes_into_a_folder_with_brackets(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--experiment", "checkerboard", "--samples", "1", "--iterations", "1"]
    done = cli("demo", "--out", "[/b] :x:", *words, "--shuffles", "1")
    assert done.returncode == 0, done.stderr
    assert "wrote [/b] :x:/demo.json" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["[/b]"],
        ["check", "[/b].npy"],
        ["check", "x", "--alpha", "[/b]"],
        ["demo", "--out", "[/b]/x/y"],
        ["demo", "--experiment", "[/b]"],
        ["optimize", "--[/b]", "--out", "x"],
    ],
)
def test_errors_quote_brackets(cli, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[").write_text("a file in the way of a folder")
    done = cli(*words)
    assert done.returncode == 2
    assert "[" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_of_another_encoding_gets_escapes(tmp_path, encoding):
    path = tmp_path / "猫.npy"
    done = subprocess.run(
        [sys.executable, "-m", "gaussreg_fast", "check", str(path)], capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.decode(encoding) == f"error: {tmp_path}/\\u732b.npy: no such file\n"
    code = "import sys; from gaussreg_fast._exit_codes import exit_code; "
    code += "sys.exit(exit_code(lambda: print('猫 ± é')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).startswith("\\u732b ")


def test_a_prompts_file_is_cut_at_line_ends_alone(cli, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a cat\u2028on a mat\r\n\r\na dog\x0c[x]\n", encoding="utf-8")
    words = ["--prompts-file", "prompts.txt", "--reward", "digits-ink", "--iterations", "1"]
    done = cli("optimize", "--out", "run", *words)
    assert done.stdout.count("finished") == 2
    assert repr("a cat\u2028on a mat") in done.stdout


def test_markdown_shows_what_was_written():
    for text in PROMPTS:
        assert shown(_markdown.escape(text)).strip() == text
        assert shown(_markdown.code(text)).strip() == text
        block = "\n".join(_markdown.block(f"a\n{text}", "yaml"))
        assert shown(block).strip() == f"a\n{text}"


def test_every_console_is_plain():
    """A console of rich reads [text] as markup, unless it is told not to."""
    made = [
        str(path.relative_to(ROOT))
        for folder in ("gaussreg_fast", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Console"
    ]
    assert made == ["gaussreg_fast/_progress.py", "bench/harness/progress.py"]
