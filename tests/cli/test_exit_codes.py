"""Exit codes: one table for all commands, one line on stderr for whatever a user can mend."""

import errno
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from draws import noise

from bench import ROOT
from gaussreg_fast import _exit_codes
from gaussreg_fast._exit_codes import Exit, exit_code
from gaussreg_fast.errors import InputError, MachineError, NoDeviceError, first_line, of_machine

COMMAND = [sys.executable, "-m", "gaussreg_fast"]


def raised(error, cause=None):
    def command():
        raise error from cause

    return command


def full(path="run/metrics.csv"):
    return OSError(errno.ENOSPC, "No space left on device", path)


# What ends a command -> its code and the line on stderr. The words are those of the libraries.
ENDS = {
    "done": (lambda: None, 0, ""),
    "the answer is no": (lambda: 1, 1, ""),
    "input": (raised(InputError("a must be 1, got 2")), 2, "error: a must be 1, got 2"),
    "no file": (raised(FileNotFoundError(2, "No such file", "x")), 2, "error: x: No such file"),
    "no package": (
        raised(ModuleNotFoundError("no", name="triton")), 2,
        "error: the package triton is not installed",
    ),
    "full disk": (raised(full()), 3, "error: run/metrics.csv: No space left on device"),
    "full disk of a library": (
        raised(InputError("the hub failed"), OSError(errno.EDQUOT, "quota")), 3,
        "error: the hub failed",
    ),
    "memory": (raised(MemoryError()), 3, r"error: out of memory \(MemoryError\)"),
    "memory of NumPy": (
        lambda: np.empty(2**50), 3, r"error: out of memory \(Unable to allocate 8.00 PiB",
    ),
    "memory of torch": (
        lambda: torch.empty(2**50), 3, r"error: out of memory \(.*can't allocate memory",
    ),
    "memory of a GPU": (
        raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nsee")), 3,
        r"error: out of memory \(CUDA out of memory. Tried to allocate 2 GiB\)$",
    ),
    "memory behind another error": (
        raised(InputError("model 'x' could not be loaded"), MemoryError()), 3,
        "error: model 'x' could not be loaded",
    ),
    "a broken device": (
        raised(RuntimeError("CUDA error: unspecified launch failure\nmore")), 3,
        "error: CUDA error: unspecified launch failure$",
    ),
    "no device": (raised(NoDeviceError("device must be cpu, got cuda")), 3, "error: device must"),
    "machine": (raised(MachineError("no GPU here")), 3, "error: no GPU here"),
    "interrupted": (raised(KeyboardInterrupt()), 130, "interrupted"),
    "reader gone": (raised(BrokenPipeError()), 130, ""),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_command_has_its_code_and_at_most_one_line(end, capsys):
    command, code, said = ENDS[end]
    assert exit_code(command) == code
    told = capsys.readouterr().err
    assert re.match(said if said else "$", told)
    assert told.count("\n") == bool(said)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("ours"),
        ModuleNotFoundError("a", name=None),
        # Errors of a reward, that is of a program: its network, and a wrong index on a GPU.
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError("too slow"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_a_mistake_in_the_program_shows_its_place_and_is_no_answer(error, capsys):
    assert exit_code(raised(error)) == Exit.MISTAKE == 70
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert str(error) in told


def test_errors_about_paths_are_input_and_errors_of_the_system_are_the_machine():
    for number in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG):
        assert not of_machine(OSError(number, os.strerror(number), "x"))
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EFBIG):
        assert of_machine(OSError(number, os.strerror(number), "x"))


def test_the_page_of_the_command_line_has_the_table():
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    table = [line for line in (_exit_codes.__doc__ or "").splitlines() if line.startswith("|")]
    assert [int(row.split("|")[1]) for row in table[2:]] == sorted(Exit)
    assert "\n".join(table) in page


# ---------------------------------------------------------------- gaussreg-fast


def test_the_help_names_the_codes(cli):
    shown = " ".join(cli("--help").stdout.split())
    for words in (
        "0 done",
        "1 the answer is no",
        "2 bad input",
        "3 the machine",
        "130 interrupted",
    ):
        assert words in shown


@pytest.fixture
def latents(tmp_path):
    np.save(tmp_path / "noise.npy", noise(2, 64).numpy())
    np.save(tmp_path / "flat.npy", np.zeros((2, 64), np.float32))
    return tmp_path


def test_done_is_0_and_no_is_1(cli, latents):
    assert cli("backends").returncode == 0
    assert cli("--version").returncode == 0
    assert cli("check", latents / "noise.npy").returncode == 0
    assert cli("check", latents / "flat.npy").returncode == 1


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["check"],
        ["check", "none.npy"],
        ["check", "~nobody-of-this-name/x.npy"],
        ["demo", "--iterations", "0"],
        ["optimize", "--out", "run"],
        ["optimize", "--out", "run", "--prompt", "a", "--reward", "nothing"],
    ],
    ids=" ".join,
)
def test_bad_input_is_2(cli, monkeypatch, tmp_path, words):
    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    assert cli(*words).returncode == 2


def test_memory_that_ends_while_reading_or_checking_is_3(cli, monkeypatch, latents):
    from gaussreg_fast.latent import files

    path = latents / "noise.npy"
    for broken in ("gaussreg_fast.diagnose", "gaussreg_fast.latent.files.np.load"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, lambda *_, **__: np.empty(2**50))
            done = cli("check", path)
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert "Unable to allocate 8.00 PiB" in done.stderr
    assert files.load_latents(path).shape == (2, 64)


def test_output_on_a_full_disk_is_3(latents):
    with open("/dev/full", "w") as full_disk:
        done = subprocess.run(
            [*COMMAND, "check", latents / "noise.npy"], stdout=full_disk, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "error: output: No space left on device\n")


def test_a_reader_that_goes_away_is_no_answer(latents):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "check", latents / "flat.npy"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (130, "")


REWARD = """
import torch

def out_of_memory(images, prompts):
    return torch.empty(2**50)

def mistake(images, prompts):
    return images.mean((1, 2, 3)) * (1 / len(prompts[:0]))

def infinite(images, prompts):
    return images.mean((1, 2, 3)) * torch.inf

def interrupt(images, prompts):
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("reward", "code", "said"),
    [
        ("infinite", 1, ""),
        ("mistake", 70, r"(?s)Traceback .*rewards_of_a_run.py.*\nZeroDivisionError: .*"),
        ("out_of_memory", 3, "error: out of memory .*; a smaller --batch-size, .* need less; .*\n"),
        ("interrupt", 130, ""),
    ],
)
def test_what_ends_a_run_has_its_code(cli, monkeypatch, tmp_path, reward, code, said):
    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards_of_a_run.py").write_text(REWARD)
    done = cli(
        "optimize", "--out", "run", "--prompt", "a", "--iterations", "1", "--reward",
        f"rewards_of_a_run:{reward}",
    )  # fmt: skip
    assert done.returncode == code
    if said:
        assert re.fullmatch(said, done.stderr)
    assert (tmp_path / "run").exists() == (code == 1)


def test_a_device_that_this_machine_does_not_have_is_3(cli, monkeypatch, tmp_path):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--prompt", "a", "--reward", "digits-ink", "--device"]
    assert cli("optimize", "--out", tmp_path / "a", *options, "cuda").returncode == 3
    assert cli("optimize", "--out", tmp_path / "b", *options, "gpu").returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", [["gaussreg_fast", "demo"], ["bench", "study", "projection"]])
def test_an_interrupted_command_is_130(tmp_path, command):
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--out", str(tmp_path / "out")], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout.readline()  # it is at work
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said


def test_the_first_line_of_another_library_is_quoted():
    assert first_line(RuntimeError("\x1b[31mone.\x1b[0m\ntwo")) == "one"
