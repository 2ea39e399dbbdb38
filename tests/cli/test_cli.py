"""The command line as a user meets it: exit codes, output, files."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from draws import noise
from safetensors.torch import save_file

from gaussreg_fast._files import atomic_path
from gaussreg_fast.latent import files


def process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gaussreg_fast", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def write(path, x):
    match path.suffix:
        case ".npy":
            np.save(path, x.numpy())
        case ".npz":
            np.savez(path, latents=x.numpy())
        case ".safetensors":
            save_file({"latents": x}, path)
        case _:
            torch.save(x, path)
    return path


SUFFIXES = [".npy", ".npz", ".safetensors", ".pt", ".pth"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read_back(tmp_path, suffix):
    x = noise(2, 4, 8, 8)
    torch.testing.assert_close(files.load_latents(write(tmp_path / f"x{suffix}", x)), x)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 7, 200])
def test_truncated_files_are_one_clear_error(tmp_path, suffix, keep):
    path = write(tmp_path / f"x{suffix}", noise(2, 4, 8, 8))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(files.LatentFileError, match="unreadable or truncated") as error:
        files.load_latents(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2"])
def test_byte_order(tmp_path, dtype):
    x = noise(2, 64)
    np.save(tmp_path / "x.npy", x.numpy().astype(dtype))
    np.savez(tmp_path / "x.npz", x.numpy().astype(dtype))
    for name in ("x.npy", "x.npz"):
        got = files.load_latents(tmp_path / name).float()
        torch.testing.assert_close(got, x, rtol=1e-3, atol=1e-3)


def test_npy_files_of_bfloat16(tmp_path):
    """NumPy saves ml_dtypes.bfloat16 as raw bytes, which could be anything."""
    np.save(tmp_path / "x.npy", np.zeros((2, 64), "V2"))
    np.save(tmp_path / "long.npy", np.zeros((2, 64), np.longdouble))
    with pytest.raises(files.LatentFileError, match=r"dtype \|V2, which .*bfloat16: convert them"):
        files.load_latents(tmp_path / "x.npy")
    with pytest.raises(files.LatentFileError, match=r"which torch does not have$"):
        files.load_latents(tmp_path / "long.npy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(2, 64, device="meta"), "meta"),
        (torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)]), "nested"),
        ([torch.zeros(2, 64)], "unreadable|holds one|not numeric|holds no tensor"),
        ({"state": {"latents": torch.zeros(2, 64)}}, "no tensor at its top level"),
        (torch.zeros(2, 64).to_sparse(), "dense"),
        (torch.zeros(2, 64, dtype=torch.complex64), "must be float32"),
    ],
    ids=["meta", "nested", "list", "deep", "sparse", "complex"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_no_latents(cli, tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    result = cli("check", tmp_path / "x.pt")
    assert result.returncode == 2
    assert re.search(words, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1


def test_json_is_strict(cli, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    result = cli("check", write(tmp_path / "x.npy", torch.zeros(1, 64)), "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout, parse_constant=refuse)["lag1"] == [None]


def test_code_in_a_pickle_is_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"latents": noise(2, 64), "evil": Evil()}, tmp_path / "x.pt")
    with pytest.raises(files.LatentFileError):
        files.load_latents(tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(files.LatentFileError):
        files.load_latents(tmp_path / "x.npy")
    assert not marker.exists()


def test_keys(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": noise(2, 64), "b": noise(3, 64)}, path)
    assert files.load_latents(path, "b").shape == (3, 64)
    with pytest.raises(files.LatentFileError, match=r"with a key out of (a, b|b, a)$"):
        files.load_latents(path)
    with pytest.raises(files.LatentFileError, match="must be one of"):
        files.load_latents(path, "c")
    torch.save({"step": 3}, tmp_path / "x.pt")
    with pytest.raises(files.LatentFileError, match="holds no tensor"):
        files.load_latents(tmp_path / "x.pt")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(files.LatentFileError, match="not numeric"):
        files.load_latents(tmp_path / "words.npy")


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_atomic_path_writes_to_file_systems_that_know_little(tmp_path, monkeypatch, number):
    def unknown(*_, **__):
        raise OSError(number, os.strerror(number))

    def forbidden(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", unknown)
    monkeypatch.setattr("pathlib.Path.chmod", forbidden)
    with atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "new")]


def test_what_does_not_reach_the_disk_replaces_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "x").write_text("old")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=rf"{tmp_path}/x'$"), atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "old")]


def test_check_passes_noise_and_fails_the_rest(cli, tmp_path):
    good = cli("check", write(tmp_path / "good.pt", noise(4, 4, 32, 32)))
    assert good.returncode == 0, good.stderr
    assert "consistent with white Gaussian noise" in good.stdout
    plot = tmp_path / "plot.png"
    bad = cli("check", write(tmp_path / "bad.npy", 2 * noise(4, 4, 32, 32)), "--json",
              "--plot", plot)  # fmt: skip
    assert bad.returncode == 1, bad.stderr
    result = json.loads(bad.stdout)
    assert result["gaussian"] is False
    assert result["shape"] == [4, 4, 32, 32]
    assert len(result["p_value"]) == 4
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_check_of_a_single_sample(cli, tmp_path):
    path = write(tmp_path / "x.npy", noise(4096))
    refused = cli("check", path)
    assert refused.returncode == 2
    assert "--single" in refused.stderr
    assert cli("check", path, "--single").returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.pt", None, "no such file"),
        ("x.txt", b"hello", "the ending must be one of"),
        ("x.npy", b"\x93NUMPY", "unreadable or truncated"),
        ("x.safetensors", b"\xff" * 40, "unreadable or truncated"),
        ("nan.npy", torch.full((2, 64), torch.nan), "finite"),
        ("int.npy", torch.zeros(2, 64, dtype=torch.int64), "must be float32"),
        ("short.npy", torch.zeros(2, 8), "at least 2 * block_size"),
        ("empty.npy", torch.zeros(0, 64), "at least one sample"),
    ],
    ids=["missing", "text", "cut npy", "cut safetensors", "nan", "int", "short", "empty"],
)
def test_bad_files_are_one_line_and_exit_code_2(cli, tmp_path, name, content, words):
    path = tmp_path / name
    if isinstance(content, torch.Tensor):
        write(path, content)
    elif content is not None:
        path.write_bytes(content)
    result = cli("check", path, "--plot", tmp_path / "plot.png")
    assert result.returncode == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert name in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "plot.png").exists()


def test_files_and_pictures_may_be_in_the_home_folder(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    write(tmp_path / "home/x.npy", noise(2, 64))
    assert cli("check", "~/x.npy", "--plot", "~/plot.png").returncode == 0
    words = ["--experiment", "checkerboard", "--samples", "1", "--iterations", "1"]
    assert cli("demo", "--out", "~/demo", *words, "--shuffles", "1").returncode == 0
    assert (tmp_path / "home/plot.png").exists()
    assert (tmp_path / "home/demo/demo.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_check_refuses_to_draw_what_is_not_there(cli, tmp_path):
    path = write(tmp_path / "x.npy", noise(2, 64))
    assert "sample" in cli("check", path, "--plot", tmp_path / "p.png", "--sample", 5).stderr
    result = cli("check", path, "--plot", tmp_path / "p.doc")
    assert result.returncode == 2
    assert ".png" in result.stderr
    result = cli("check", path, "--plot", tmp_path / "no" / "such" / "p.png")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_usage_errors_and_small_commands(cli):
    assert cli("check").returncode == 2
    assert cli("nonsense").returncode == 2
    assert cli("demo", "--samples", "0").returncode == 2
    assert cli("--version").stdout.strip()
    result = cli("backends")
    assert result.returncode == 0
    assert "torch: available" in result.stdout


def test_it_runs_as_a_module(tmp_path):
    result = process("check", write(tmp_path / "x.npy", noise(2, 64)))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Gaussianity of latents (2, 64), D = 64")


def test_without_its_extras_the_command_says_what_to_install(tmp_path):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no typer', name='typer')")
    result = process("backends", PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert "gaussreg_fast[cli]" in result.stderr


# ---------------------------------------------------------------- optimize's options


def test_every_setting_is_an_option_or_said_to_be_none():
    options = pytest.importorskip("gaussreg_fast.cli.options")
    derived = options.settings()
    names = [setting.name for setting in derived]
    assert len(set(names)) == len(names)
    assert {"out", "config", "prompts_file", "seeds"}.isdisjoint(names)
    every = [".".join(setting.path) for setting in options._settings(options.RunConfig)]
    assert sorted([*(".".join(s.path) for s in derived), *options.ONLY_IN_FILES]) == sorted(every)
    for setting in derived:
        assert re.fullmatch(r"[A-Z].*\.", setting.help), setting


def test_options_become_nested_settings():
    options = pytest.importorskip("gaussreg_fast.cli.options")
    given = dict.fromkeys(setting.name for setting in options.settings())
    given |= {"prompt": ["a", "b"], "guard": "kl", "rescale": False, "lr": 0.5, "model": "digits"}
    given |= {"p_value": 0.05, "seed": [], "held_out": ["clip"]}
    assert options.nested(given) == {
        "prompts": ["a", "b"],
        "model": {"source": "digits"},
        "held_out": ["clip"],
        "guard": {"name": "kl", "rescale": False},
        "optimizer": {"lr": 0.5},
        "p_value": 0.05,
    }


def test_help_names_every_guard_and_how_to_write_a_reward():
    guards = pytest.importorskip("gaussreg_fast.latent.guards")
    shown = process("optimize", "--help", COLUMNS="300").stdout
    assert ", ".join(guards.GUARDS) in shown
    assert "NAME[@SOURCE][=WEIGHT]" in shown  # brackets are markup unless they are escaped
    assert "An existing run with the same settings is resumed." in shown


def test_optimize_without_a_prompt_or_reward_names_the_option(tmp_path):
    pytest.importorskip("gaussreg_fast.latent.settings")
    command = ("optimize", "--out", str(tmp_path / "run"))
    for options, option, setting in (
        ([], "--prompt", "prompts"),
        (["--prompt", "a"], "--reward", "rewards"),
    ):
        result = process(*command, *options)
        assert result.returncode == 2
        said = f"error: {option} is required if no file of --config names {setting}\n"
        assert result.stderr == said


def test_without_its_packages_optimize_says_what_to_install(tmp_path):
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError('none', name='yaml')")
    assert process("backends", PYTHONPATH=str(tmp_path)).returncode == 0
    result = process("optimize", "--out", "run", "--prompt", "a", PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr == "error: optimize needs yaml: pip install 'gaussreg_fast[latent]'\n"
