"""Whole runs on the embedded Stable Diffusion: folders, resuming, several processes, bad input."""

import csv
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import SETTINGS, files, run

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent import config, optimize
from gaussreg_fast.latent.run import batches


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Run once without an interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    return run(folder)


def rows(path):
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


# ---------------------------------------------------------------- what a run leaves


def test_a_run_leaves_its_files(whole):
    names = set(files(whole.folder))
    for name in ("config.yaml", "metrics.csv", "samples.csv", "latents.safetensors", "curves.png",
                 "report.md"):  # fmt: skip
        assert name in names
    for index in range(2):
        assert f"batches/{index:04d}/state.safetensors" in names
        assert f"batches/{index:04d}/result.safetensors" in names
    for sample in range(3):
        for kind in ("start", "best", "final"):
            assert Image.open(whole.image(sample, kind)).size == (16, 16)
    assert not [name for name in names if Path(name).name.startswith(".")]


def test_metrics_have_a_row_per_sample_and_iterate(whole):
    metrics = rows(whole.folder / "metrics.csv")
    seen = sorted((int(r["sample"]), int(r["iteration"])) for r in metrics)
    assert seen == [(s, t) for s in range(3) for t in range(13)]
    assert {r["status"] for r in metrics} == {"running"}
    for column in ("reward", "digits-ink", "held_out/digits-class-a", "guard", "p_value"):
        assert all(r[column] for r in metrics)
    ink = {(int(r["sample"]), int(r["iteration"])): float(r["reward"]) for r in metrics}
    assert all(ink[s, 12] > ink[s, 0] for s in range(3))


def test_the_table_of_samples_agrees_with_the_metrics(whole):
    metrics = {(r["sample"], int(r["iteration"])): r for r in rows(whole.folder / "metrics.csv")}
    for row, listed in zip(whole.samples, rows(whole.folder / "samples.csv"), strict=True):
        own = [metrics[str(row["sample"]), t] for t in range(13)]
        held = [float(r["held_out"]) for r in own]
        assert row["best_iteration"] == held.index(max(held)) == int(listed["best_iteration"])
        assert row["best/reward"] == float(own[row["best_iteration"]]["reward"])
        assert row["start/reward"] == float(own[0]["reward"])
        assert row["final/held_out"] == held[12]
        assert row["status"] == "finished"
        assert row["prompt"] == SETTINGS["prompts"][row["sample"]]


def test_latents_are_kept(whole):
    latents = load_file(whole.folder / "latents.safetensors")
    assert set(latents) == {"start", "best", "final"}
    for kind, value in latents.items():
        assert value.shape == (3, 16, 8, 8)
        assert torch.equal(value, whole.latents[kind])
    noise = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents["start"][1], noise)


def test_the_report_shows_settings_and_pictures(whole):
    page = (whole.folder / "report.md").read_text()
    for text in ("digits-ink", "mpgr", "a handwritten three", "curves.png", "iterations: 12"):
        assert text in page
    for part in page.split('src="')[1:]:
        assert (whole.folder / part.split('"')[0]).exists()
    kept = config.resolve(yaml.safe_load((whole.folder / "config.yaml").read_text()))
    assert kept == config.resolve(SETTINGS)


def test_seeds_make_samples_for_every_prompt():
    made = batches(config.resolve({**SETTINGS, "seeds": [4, 5], "batch_size": 4}))
    assert [(s.index, s.prompt.split()[-1], s.seed) for batch in made for s in batch] == [
        (0, "three", 4), (1, "three", 5), (2, "eight", 4), (3, "eight", 5), (4, "one", 4),
        (5, "one", 5),
    ]  # fmt: skip
    assert [len(batch) for batch in made] == [4, 2]


def test_callbacks_see_every_iterate(tmp_path):
    seen = []
    changes = {"iterations": 2, "prompts": SETTINGS["prompts"][:1]}
    optimize({**SETTINGS, **changes}, out=tmp_path / "run", callbacks=[seen.append])
    assert [record.iteration for record in seen] == [0, 1, 2]
    assert seen[0].images.shape == (1, 3, 16, 16)


def test_a_run_can_start_from_given_latents(tmp_path):
    noise = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(7))
    save_file({"latents": noise}, tmp_path / "noise.safetensors")
    result = run(tmp_path / "run", latents=str(tmp_path / "noise.safetensors"), iterations=1)
    assert torch.equal(result.latents["start"], noise)
    onward = {"latents": str(result.folder / "latents.safetensors"), "iterations": 1}
    with pytest.raises(InputError, match="choose one with a key"):
        run(tmp_path / "next", **onward)
    again = run(tmp_path / "next", **onward, latents_key="final")
    assert torch.equal(again.latents["start"], result.latents["final"])


# ---------------------------------------------------------------- going on


def test_a_finished_run_is_left_as_it_is(whole):
    before = files(whole.folder)
    again = run(whole.folder)
    assert files(whole.folder) == before
    assert again.samples == whole.samples


@pytest.mark.slow
def test_two_processes_share_the_batches(whole, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "gaussreg_fast", "optimize", "--config", str(tmp_path / "run.yaml"),
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "run") == files(whole.folder)
    assert done.stdout.count("wrote ") == 1


def test_other_settings_are_another_run(whole):
    with pytest.raises(InputError, match=r"optimizer\.lr: 5\.0 there, 4\.0 now"):
        run(whole.folder, optimizer={"lr": 4.0})
    with pytest.raises(InputError, match="iterations: 12 there, 13 now"):
        run(whole.folder, iterations=13)


def test_how_a_run_is_computed_may_change_on_the_way(whole):
    model = {"source": "digits", "device": "cpu", "vae_slicing": True, "offload": "text"}
    assert run(whole.folder, checkpoint_every=1, model=model).samples == whole.samples


def test_what_a_kill_left_half_written_is_swept_away(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    for left in (".partial-curves-x1y2z3.png", "batches/0000/.partial-state-ab.safetensors"):
        (tmp_path / "run" / left).write_bytes(b"half")
    run(tmp_path / "run")
    assert files(tmp_path / "run") == files(whole.folder)


def test_a_config_built_by_hand_can_be_gone_on_with(tmp_path):
    resolved = config.resolve(SETTINGS)
    plain = replace(resolved.guard, options={})
    built = resolved.model_copy(update={"guard": plain, "iterations": 1})
    first = optimize(built, out=tmp_path / "run")
    assert optimize(built, out=tmp_path / "run").samples == first.samples


def test_a_second_run_in_the_same_folder_is_kept_out(whole):
    with open(whole.folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is at work"):
            run(whole.folder)


def without_locks(monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gives_a_warning_and_the_run(
    tmp_path, monkeypatch, whole, number
):
    without_locks(monkeypatch, number)
    said = f"run: its file system has no locks \\({os.strerror(number)}\\), .* do not start one"
    with pytest.warns(UserWarning, match=said):
        run(tmp_path / "run")
    assert files(tmp_path / "run") == files(whole.folder)


def test_a_lock_that_fails_for_another_reason_names_its_file_and_leaves_no_folder(
    tmp_path, monkeypatch
):
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=r"run/\.lock"):
        run(tmp_path / "parent" / "run")
    assert not (tmp_path / "parent").exists()


def test_a_run_that_is_kept_out_leaves_the_other_ones_folder_alone(tmp_path, whole):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run/.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is at work"):
            run(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


# ---------------------------------------------------------------- paths


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch, whole):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    save_file({"latents": whole.latents["start"]}, tmp_path / "home/noise.safetensors")
    result = run("~/runs/a", latents="~/noise.safetensors", iterations=1)
    assert result.folder == tmp_path / "home/runs/a"
    assert torch.equal(result.latents["start"], whole.latents["start"])
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_a_home_folder_that_does_not_exist_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for changes in ({"out": "~nobody-of-this-name/a"}, {"model": "~nobody-of-this-name/model"}):
        with pytest.raises(InputError, match=r"~nobody-of-this-name/.*: no such home folder"):
            run(**{"out": "run", **changes})
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rewards": ["clipp"]}, "clipp"),
        ({"rewards": ["no_such_module:reward"]}, "no_such_module"),
        ({"model": "no/such-folder/at-all"}, "no/such-folder/at-all"),
        ({"latents": "missing.safetensors"}, "no such file"),
        ({"latents": "wrong.safetensors"}, r"\(3, 16, 8, 8\), got \(3, 16, 8, 7\)"),
        ({"latents": "few.safetensors"}, r"got \(2, 16, 8, 8\)"),
        ({"prompts": ["a cat"], "rewards": ["digits-class"]}, "a cat"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_file({"latents": torch.zeros(3, 16, 8, 7)}, "wrong.safetensors")
    save_file({"latents": torch.zeros(2, 16, 8, 8)}, "few.safetensors")
    with pytest.raises(InputError, match=said) as error:
        run(tmp_path / "run", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["config.yaml", "environment.json"])
def test_a_run_that_cannot_begin_leaves_nothing_in_the_way(tmp_path, monkeypatch, whole, error, at):
    from gaussreg_fast import _files
    from gaussreg_fast.latent import folder

    real = _files.write_text

    def fails(path, text):
        if path.name == at:
            raise error
        real(path, text)

    for home in (folder, _files):
        monkeypatch.setattr(home, "write_text", fails)
    with pytest.raises(type(error)):
        run(tmp_path / "run")
    for home in (folder, _files):
        monkeypatch.setattr(home, "write_text", real)
    assert files(run(tmp_path / "run").folder) == files(whole.folder)


BROKEN = "def reward(images, prompts):\n    raise OverflowError\n"


def test_a_reward_that_raises_leaves_no_folder(tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("run", "mine"):
        with pytest.raises(OverflowError):
            run(tmp_path / name, rewards=["broken_reward:reward"])
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "mine").iterdir()) == []


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds other files"):
        run(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        run(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_whose_name_is_not_utf8_is_refused_before_the_run(tmp_path, cli):
    out = tmp_path / os.fsdecode(b"s\xffurr")
    said = f"out must be a path in UTF-8, got '{tmp_path}/s\\udcffurr'"
    with pytest.raises(InputError) as caught:
        run(out)
    assert str(caught.value) == said
    done = cli("optimize", "--out", out, "--prompt", "a", "--reward", "digits-ink")
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_gone_on_from(tmp_path, monkeypatch, whole):
    from gaussreg_fast.latent import folder

    real, calls = folder.save_tensors, []

    def full(path, tensors):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, tensors)

    monkeypatch.setattr(folder, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "run")
    monkeypatch.setattr(folder, "save_tensors", real)
    assert files(run(tmp_path / "run").folder) == files(whole.folder)


def test_the_command_line(tmp_path, monkeypatch, cli):
    command = [
        sys.executable, "-m", "gaussreg_fast", "optimize", "--out", "run", "--prompt",
        "a handwritten three", "--reward", "digits-ink=2", "--held-out", "digits-class-a",
        "--guard", "kl", "--iterations", "2", "--seeds", "2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "wrote run/report.md" in done.stdout
    kept = config.resolve(yaml.safe_load((tmp_path / "run/config.yaml").read_text()))
    assert (kept.rewards[0].weight, kept.guard.name, kept.seeds) == (2.0, "kl", (0, 1))
    monkeypatch.chdir(tmp_path)
    again = cli("optimize", "--out", "run", "--device", "cpu")  # its own settings
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reward", "digits-ink"], "--prompt is required if"),
        (["--prompts-file", "none.txt", "--reward", "digits-ink"], "none.txt: No such file"),
        (["--config", "none.yaml"], "none.yaml: No such file"),
        (["--seed", "1", "--seeds", "2"], "--seed and --seeds exclude each other"),
    ],
)
def test_bad_commands_are_one_line_and_exit_code_2(tmp_path, monkeypatch, cli, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = cli("optimize", "--out", "run", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
