"""The stages of the GPU run: what they are made of, what they compile, what their tools print."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench import ROOT
from bench.compiled.machine_code import Notes, Variant
from bench.gpu import ceilings, child, extras, headline, plan, programs, queue, sanitizer
from bench.gpu.rehearsal import noting
from bench.gpu.stage import LeftOut, Part
from bench.subjects import prepare

TRITON = "3.6.0"  # of the machine that the estimates are for


@pytest.fixture(autouse=True)
def compiled_kernels(monkeypatch):
    """Launches as a GPU's: what tests have for the interpreter is of no use here."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def in_a_process(code):
    """Run a program and return its JSON; a process, because Triton reads its mode at import."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("stages", [plan.FULL, plan.SMALL], ids=["full", "small"])
def test_rows_and_labels_have_names_of_their_own(stages):
    for stage in stages:
        parts = stage.parts()
        names = Counter(part.name for part in parts)
        labels = Counter(label for part in parts for label in part.kernels)
        assert {n: k for n, k in (names + labels).items() if names[n] > 1 or labels[n] > 1} == {}
    assert [s.name for s in plan.FULL] == [s.name for s in plan.SMALL]


def test_the_stages_fit_into_their_time():
    before_tuning = plan.FULL[:5]
    assert [stage.name for stage in plan.FULL[5:]] == ["tuning", "extras"]
    assert sum(stage.at_most for stage in before_tuning) <= 540 - 30
    for stage in plan.FULL:
        each = [part.seconds for part in stage.parts()]
        assert max(each) <= stage.at_most
        # The last two get what is left, and begin if their first part fits.
        expected = sum(each) if stage in before_tuning else each[0]
        assert abs(expected - stage.seconds) <= 2


def test_no_part_takes_the_time_of_those_after_it():
    def part(seconds):
        return Part(f"{seconds}", dict, seconds)

    assert child.allowance(part(10), [part(20)], 100) == (30, False)  # twice, and ten more
    assert child.allowance(part(10), [part(20)], 45) == (25, True)
    assert child.allowance(part(10), [part(20)], 31) == (17, True)
    assert child.allowance(part(10), [part(20), part(1000)], 29) == (29, True)  # none else fits
    assert child.allowance(part(10), [], 12) == (12, True)


def test_every_route_and_task_is_compared():
    [routes] = [stage for stage in plan.FULL if stage.name == "routes"]
    names = " ".join(part.name for part in routes.parts())
    sizes = [64, 1024, 16384, 32768, 65536, 262144, 36864, 1000]
    for wanted in [*(f"gradient D={d}" for d in sizes), "projection D=65536", "path_both",
                   "drift gradient", "permutation D=65536", "bfloat16", "float16", "statistics",
                   "pullback", "backward", "graph D=16384", "under torch.compile"]:  # fmt: skip
        assert wanted in names
    assert len(routes.parts()) >= 25


KERNELS = """
import json, bench
from bench.gpu import plan, queue
print(json.dumps([[j.stage, j.variant.name] for j in queue.jobs(plan.FULL, "sm_90")]))
"""


def test_the_time_of_every_kernel_is_estimated():
    """The estimates are for Triton 3.6.0; `make record-compile-seconds` records them again."""
    needed = [name for _, name in in_a_process(KERNELS)]
    assert len(needed) == len(set(needed)) > 200
    assert set(needed) == set(queue.estimates(TRITON, "sm_90"))


BATCHES = """
import json, bench
from dataclasses import replace
from bench.subjects import prepare
from bench.gpu import headline
from bench.gpu.rehearsal import noting
from bench.gpu.stage import LeftOut
from bench.compiled.machine_code import Notes, Variant
found = {}
for case in (*headline.COMPILED, *headline.OTHERS):
    if case.batch == 1:
        continue
    notes = Notes("sm_90")
    with noting(notes.hook, "sm_90"):
        prepare.ours(prepare.small(case))
        few = set(notes.found)
        prepare.ours(replace(case, batch=min(case.batch, 2**23 // case.dimension)))
    found[case.name] = [len(few), len(notes.found)]
print(json.dumps(found))
"""


def test_a_large_batch_needs_no_other_kernels_than_a_small_one():
    for name, (few, all_) in in_a_process(BATCHES).items():
        assert few == all_ > 0, name


def variant(name, kernel):
    return queue.Job("one", named_variant(name, kernel), (name,))


def named_variant(name, kernel):
    return Variant(name, "sm_90", "m", kernel, 0, {}, {}, {}, {})


def test_the_longest_kernels_go_first_stage_by_stage():
    jobs = [variant("a: fused", "fused"), variant("b: rows", "rows"), variant("c: fused", "fused")]
    jobs.append(replace(variant("d: rows", "rows"), stage="two"))
    known = {"a: fused": 2.0, "b: rows": 9.0, "d: rows": 30.0}
    found = queue.ordered(jobs, known)
    assert [(job.variant.name, seconds) for job, seconds in found] == [
        ("b: rows", 9.0), ("a: fused", 2.0), ("c: fused", 2.0), ("d: rows", 30.0),
    ]  # fmt: skip
    assert [s for _, s in queue.ordered(jobs, {})] == [queue.UNKNOWN] * 4


def test_a_label_is_ready_when_all_its_kernels_are(tmp_path, monkeypatch):
    jobs = [
        queue.Job("one", named_variant("a: fused", "fused"), ("a", "b")),
        queue.Job("one", named_variant("a: table", "table"), ("a",)),
    ]
    path = tmp_path / "finished"
    finished = queue.Finished(path, jobs, ["one", "two"])
    monkeypatch.setattr(queue, "finished_in", path)
    assert queue.ready() == {}
    finished.kernel(jobs[0], 1.5, "")
    assert queue.ready() == {"b": ""}
    finished.kernel(jobs[1], 0.5, "PTXASError: no")
    assert queue.ready() == {"a": "PTXASError: no", "b": ""}
    assert [line["stage"] for line in queue.lines(path) if "stage" in line] == ["one"]
    with path.open("a") as file:
        file.write('{"label": "c", "err')  # as it is written
    assert "c" not in queue.ready()


# ---------------------------------------------------------------- ceilings


CEILINGS = """
import json, bench
from bench.gpu import ceilings
from bench.gpu.rehearsal import rehearsed
from bench.simulator import simulated
found = {}
with rehearsed() as device:
    for name, make in (("fma", ceilings._arithmetic), ("l2", ceilings._cache),
                       ("shared", ceilings._shared)):
        amounts = []
        for steps in (2, 4):
            call, amount = make(True, steps)
            before = len(device._simulation.launches)
            call(0)
            execution = device._simulation.launches[before].execution
            program = device._simulation.launches[before].program
            amounts.append([amount, int(execution.wavefronts.sum()), int(execution.moved.sum()),
                            int(sum(n for n, text in zip(execution.active, program.text)
                                    if "fma.rn.f32" in text))])
        found[name] = amounts
print(json.dumps(found))
"""


def test_the_kernels_of_the_ceilings_do_what_they_are_counted_for():
    """Two more steps, and that much more of it by the simulator's count."""
    found = in_a_process(CEILINGS)
    more = {name: [b - a for a, b in zip(*amounts, strict=True)] for name, amounts in found.items()}
    amount, _, _, multiply_adds = more["fma"]
    assert multiply_adds == amount > 0
    amount, _, moved, _ = more["l2"]
    assert moved == amount > 0
    amount, wavefronts, _, _ = more["shared"]
    assert 0 < amount <= wavefronts <= 1.1 * amount


# ---------------------------------------------------------------- other programs


NCU = """==PROF== Connected to process 1234
==PROF== Profiling "fused" - 0: 0%....100% - 40 passes
"ID","Kernel Name","gpu__time_duration.sum","launch__registers_per_thread","smsp__inst_executed.sum"
"","","usecond","register/thread","inst"
"0","fused","21.41","219","53,808"
"""


def test_what_nsight_compute_prints_is_read():
    assert extras.metrics(NCU) == {
        "gpu__time_duration.sum": 21410.0,
        "launch__registers_per_thread": 219.0,
        "smsp__inst_executed.sum": 53808.0,
    }


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM: no permission", "ncu printed no table: .*ERR_NVGPUCTRPERM"),
        ("\n".join(NCU.splitlines()[:4]), "ncu profiled no kernel"),
    ],
)
def test_a_profile_without_a_kernel_says_so(printed, told):
    with pytest.raises(RuntimeError, match=told):
        extras.metrics(printed)


def test_the_counts_beside_a_profile_are_the_committed_ones():
    counts = extras.simulated("gradient D=16384 batch=1", "fused")
    assert counts["programs"] == 1
    assert {ours for ours in extras.METRICS.values() if ours} <= counts.keys()
    case = headline.COMPILED[0]
    assert (case.dimension, prepare.ours.__module__) == (16384, "bench.subjects.prepare")


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tool(name, script): a program of this name on the path."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def test_a_profile_stands_beside_the_counts(tool, tmp_path):
    tool("ncu", f'echo "$@" > {tmp_path}/words; cat {tmp_path}/printed')
    (tmp_path / "printed").write_text(NCU)
    row = extras._profile("sd-256", 30)
    counted = extras.simulated("gradient D=16384 batch=1", "fused")
    assert row["metrics"]["smsp__inst_executed.sum"] == {
        "measured": 53808.0, "simulated": 256 * counted["machine"],
    }  # fmt: skip
    assert row["metrics"]["launch__registers_per_thread"]["simulated"] == counted["registers"]
    words = (tmp_path / "words").read_text()
    assert "--clock-control none" in words  # the device's clocks are left alone
    assert "-m bench profile --case sd-256 --bare" in words


def test_a_slow_sanitizer_is_left_out_and_says_how_far_it_came(tool):
    tool("compute-sanitizer", "echo 'D = 64: ran'; sleep 60")
    with pytest.raises(LeftOut, match="stopped after 2 s; D = 64: ran"):
        sanitizer._run(["compute-sanitizer"], {}, (64, 128), False, 2)


def test_what_a_sanitizer_finds_is_a_failure(tool):
    tool("compute-sanitizer", "echo '========= Invalid __global__ write'; exit 3")
    with pytest.raises(RuntimeError, match="exit code 3: ========= Invalid __global__ write"):
        sanitizer._run(["compute-sanitizer"], {}, (64,), False, 20)


def test_a_program_that_is_not_there_is_left_out():
    with pytest.raises(LeftOut, match="no-such-tool is not on this machine"):
        programs.output(["no-such-tool"], 5)


def test_noting_launches_nothing():
    notes = Notes("sm_90", "x")
    with noting(notes.hook, "sm_90"):
        assert torch.cuda.is_available()
        assert torch.ones(2, device="cuda").device.type == "cpu"
    assert not notes.found
    assert ceilings.BLOCK % 32 == 0
