"""Runs that a kill, a full disk or a power cut has damaged go on to the same bits, or say why not.

The slow tests take a few cases each; `CASES` is how many.
"""

import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
from small_runs import files, run, run_alone

from gaussreg_fast._exit_codes import line
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import storage

CASES = 6


class PowerCut(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without an interruption."""
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run with a finished batch and one that was cut off after its second checkpoint."""

    def stop(record):
        if record.samples[0].index == 2 and record.iteration == 7:
            raise PowerCut

    out = tmp_path_factory.mktemp("cut") / "run"
    with pytest.raises(PowerCut):
        run(out, callbacks=[stop])
    return out


@pytest.fixture
def copied(tmp_path):
    def copy(folder):
        shutil.copytree(folder, tmp_path / "run", dirs_exist_ok=True)
        return tmp_path / "run"

    return copy


def results(folder):
    """The files of a run without checkpoints, which a finished batch does not need."""
    return {k: v for k, v in files(folder).items() if not k.endswith("state.safetensors")}


def refusal(out):
    with pytest.raises(InputError) as caught:
        run(out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize("keep", [0, 100, 700, None], ids=str)
def test_metrics_that_the_checkpoint_is_ahead_of_are_written_anew(cut, copied, whole, keep):
    out = copied(cut)
    metrics = out / "batches/0001/metrics.csv"
    metrics.unlink() if keep is None else os.truncate(metrics, keep)
    run(out)
    assert files(out) == files(whole)


def test_metrics_behind_the_checkpoint_are_cut_even_if_they_are_rubbish(cut, copied, whole):
    out = copied(cut)
    with open(out / "batches/0001/metrics.csv", "ab") as handle:
        handle.write(b"\0" * 5000)
    run(out)
    assert files(out) == files(whole)


@pytest.mark.parametrize(
    "name",
    ["batches/0000/result.safetensors", "batches/0001/metrics.csv", "images/001-best.png",
     "metrics.csv", "samples.csv", "latents.safetensors", "curves.png", "report.md"],
)  # fmt: skip
@pytest.mark.parametrize("keep", [0, 60, None], ids=str)
def test_a_file_of_a_finished_run_is_written_anew(copied, whole, name, keep):
    out = copied(whole)
    (out / name).unlink() if keep is None else os.truncate(out / name, keep)
    run(out)
    assert files(out) == files(whole)


@pytest.mark.parametrize("keep", [0, 7, 200], ids=str)
def test_a_checkpoint_that_is_cut_short_is_named_and_may_be_removed(cut, copied, whole, keep):
    out = copied(cut)
    state = out / "batches/0001/state.safetensors"
    os.truncate(state, keep)
    told = refusal(out)
    assert told.startswith(f"{state}: unreadable (")
    assert told.endswith("; remove the file to compute its batch anew")
    state.unlink()
    run(out)
    assert files(out) == files(whole)


@pytest.mark.parametrize("missing", ["metrics", "sha256"])
def test_a_checkpoint_of_another_version_is_named(cut, copied, missing):
    from safetensors.torch import load_file, save_file

    out = copied(cut)
    state = out / "batches/0001/state.safetensors"
    tensors = load_file(state)
    if missing == "metrics":
        storage.save_tensors(state, {k: v for k, v in tensors.items() if k != missing})
    else:
        save_file(tensors, state)
    assert refusal(out).startswith(f"{state}: is not of this version, it holds no '{missing}'")


def zeroed(path, name):
    """Overwrite one tensor of a file with zeros, as a power cut may; name None: all of them."""
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    a, b = header[name]["data_offsets"] if name else (0, len(content) - begin)
    content[begin + a : begin + b] = bytes(b - a)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["identity", "metrics", "latents", "best.iteration", None])
def test_a_checkpoint_with_zeros_in_it_is_named_and_may_be_removed(cut, copied, whole, name):
    out = copied(cut)
    state = out / "batches/0001/state.safetensors"
    zeroed(state, name)
    told = refusal(out)
    assert told == (
        f"{state}: is damaged, its tensors are not those that were written; remove the file to "
        "compute its batch anew"
    )
    state.unlink()
    run(out)
    assert files(out) == files(whole)


@pytest.mark.parametrize("name", ["metrics", "best", "final", None])
def test_a_result_with_zeros_in_it_is_written_anew(copied, whole, name):
    out = copied(whole)
    zeroed(out / "batches/0000/result.safetensors", name)
    run(out)
    assert files(out) == files(whole)


def test_settings_that_are_cut_short_are_not_taken_for_other_settings(cut, copied, cli):
    out = copied(cut)
    settings = out / "config.yaml"
    text = settings.read_text()
    place = text.index("iterations: 12") + len("iterations: 1")
    os.truncate(settings, place)
    told = refusal(out)
    assert told.startswith(f"{settings}: is cut short, its last line must be '...'")
    done = cli("optimize", "--out", out)
    assert (done.returncode, done.stderr) == (2, f"error: {told}\n")


def test_a_run_killed_while_it_wrote_its_first_file_can_begin(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.partial-config-x1y2.yaml").write_text("prompts:\n- a")
    (tmp_path / "run/.lock").touch()
    run(tmp_path / "run", iterations=1)
    assert not list((tmp_path / "run").glob(".partial-*"))


def test_only_half_written_files_of_ours_are_removed(whole, copied):
    out = copied(whole)
    (out / ".my-notes.txt").write_text("precious")
    (out / ".git-of-mine").mkdir()
    run(out)
    assert (out / ".my-notes.txt").read_text() == "precious"
    assert (out / ".git-of-mine").is_dir()


# ---------------------------------------------------------------- a full disk


def test_an_append_that_finds_the_disk_full_names_the_file_and_the_run_goes_on(
    tmp_path, monkeypatch, whole
):
    import builtins

    real, left = builtins.open, [9]

    class Full:
        def __init__(self, handle):
            self._handle = handle

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._handle.close()

        def write(self, text):
            left[0] -= 1
            if left[0] == 0:
                self._handle.write(text[: len(text) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._handle.write(text)

    def opened(path, mode="r", *args, **kwargs):
        handle = real(path, mode, *args, **kwargs)
        return Full(handle) if mode == "a" and str(path).endswith("metrics.csv") else handle

    monkeypatch.setattr(builtins, "open", opened)
    with pytest.raises(OSError) as caught:
        run(tmp_path / "run")
    assert line(caught.value) == f"{tmp_path}/run/batches/0000/metrics.csv: No space left on device"
    run(tmp_path / "run")
    assert files(tmp_path / "run") == files(whole)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of some bytes; resizes the one that is mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def size(number):
        option = f"{'remount,' if place.is_mount() else ''}size={number}"
        words = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a small disk")
        return place / "run"

    yield size
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)  # a mapped file may stay


def stopped(out):
    """Runs until an error that a user can mend; returns its line, or "" after the whole run."""
    try:
        run(out)
    except (InputError, OSError) as error:
        return line(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("case", range(CASES))
def test_a_run_that_fills_the_disk_goes_on_when_there_is_space(small_disk, whole, case):
    number = random.Random(case).randint(4, 120) * 4096
    out = small_disk(number)
    told = stopped(out)
    assert "\n" not in told
    assert not told or (str(out) in told and re.search("No space left|os error 28", told))
    small_disk(2**26)
    run(out)
    assert files(out) == files(whole)


# ---------------------------------------------------------------- any damage


def damage(folder, chance):
    """Cut one file of a run short, at random; return its name."""
    path = chance.choice([p for p in sorted(folder.rglob("*")) if p.is_file()])
    os.truncate(path, chance.randint(0, max(0, path.stat().st_size - 1)))
    return str(path.relative_to(folder))


@pytest.mark.slow
@pytest.mark.parametrize("case", range(2 * CASES))
def test_a_file_cut_at_random_gives_the_same_results_or_one_line_that_names_it(
    cut, whole, copied, case
):
    chance = random.Random(case)
    out = copied(cut if case % 2 else whole)
    name = damage(out, chance)
    if told := stopped(out):
        assert "\n" not in told
        assert str(out / name) in told
        assert name in ("config.yaml", "batches/0001/state.safetensors")
    else:
        assert results(out) == results(whole)


# ---------------------------------------------------------------- kills


@pytest.mark.slow
@pytest.mark.parametrize("case", range(CASES))
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(whole, tmp_path, case):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gaussreg_fast.latent.run", "diffusers", "transformers"])
    out, chance = tmp_path / "run", random.Random(case)
    process = context.Process(target=run_alone, args=(out,))
    process.start()
    rows, goal = 0, chance.randint(0, 39)
    while process.is_alive() and rows < goal:
        rows = sum(path.read_bytes().count(b"\n") for path in out.glob("batches/*/metrics.csv"))
        time.sleep(0.002)
    time.sleep(chance.random() * 0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    run(out)
    assert files(out) == files(whole)
