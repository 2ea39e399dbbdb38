"""Format the results of the CPU studies as the tables of the pages: cold and hot columns."""

from __future__ import annotations

from typing import Any

from bench.harness.text import table, time_text

Result = dict[str, Any]  # the content of a study's file
Case = dict[str, Any]
COLUMNS = ("cold", "hot")


def _latents(case: Case) -> str:
    usual = case.get("dtype", "float32") == "float32"
    return f"{case['batch']} x {case['dimension']}" + ("" if usual else f", {case['dtype']}")


def speed(result: Result) -> str:
    """Return our times with their speed-ups, a row per case, for the best instruction set."""
    best = next(iter(result["instruction_sets"].values()))
    ours = ("gaussianity_loss", "gaussianity_value_and_grad")
    calls = ("`gaussianity_loss` + backward", "`gaussianity_value_and_grad`", "rfft + irfft alone")
    head = ["latents", *(f"{column}: {call}" for column in COLUMNS for call in calls)]
    rows = []
    for case in best["cases"]:
        rows.append([_latents(case)])
        for column in COLUMNS:
            us = case["microseconds"][column]
            rows[-1] += [f"{time_text(us[key])}, {us['naive'] / us[key]:.1f}x" for key in ours]
            fft = us["rfft_irfft"]
            rows[-1].append(f"{time_text(fft)}, {fft / us[ours[1]]:.1f}x")
    about = (
        "Naive PyTorch's time is given as a multiple of ours, and the transforms' as one of "
        "`gaussianity_value_and_grad`'s."
    )
    return f"{best['processor']}, one thread. {about}\n\n" + table(head, rows)


def details(result: Result) -> str:
    """Return tables of naive PyTorch, the instruction sets, two threads, and the stages."""
    sets = result["instruction_sets"]
    best = next(iter(sets.values()))
    naive = [
        [_latents(case), *(time_text(case["microseconds"][c]["naive"]) for c in COLUMNS)]
        for case in best["cases"]
    ]
    by_set = [
        [_latents(first)]
        + [
            f"{part['cases'][i]['microseconds'][column]['gaussianity_value_and_grad']:.0f}"
            for part in sets.values()
            for column in COLUMNS
        ]
        for i, first in enumerate(best["cases"])
    ]
    head = ["latents", *(f"{name}, {column}" for name in sets for column in COLUMNS)]
    sizes = [f"D = {part['dimension']}" for part in best["stages"]]
    stages = [
        [stage, *(f"{part['microseconds'][stage]:.1f}" for part in best["stages"])]
        for stage in best["stages"][0]["microseconds"]
    ]
    where = best["processor"]
    return (
        f"Naive PyTorch, {where}, one thread:\n\n" + table(["latents", *COLUMNS], naive)
        + "\nMicroseconds of `gaussianity_value_and_grad`, one thread:\n\n" + table(head, by_set)
        + f"\nCalls that take turns without competitors, {where}:\n\n" + _one_latent(best)
        + f"\nThreads, {where}, microseconds:\n\n" + _threads(best)
        + f"\nStages of one sample, {where}, microseconds on warm data:\n\n"
        + table(["stage", *sizes], stages)
    )  # fmt: skip


def _one_latent(best: Result) -> str:
    (case,) = best["one_latent"]
    us = case["microseconds"]
    rows = [
        [call, *(time_text(us[c][call]) for c in COLUMNS), f"{cold / us['hot'][call]:.1f}"]
        for call, cold in us["cold"].items()
    ]
    return table([f"one latent, {_latents(case)}", *COLUMNS, "cold / hot"], rows)


def _threads(best: Result) -> str:
    head, rows = ["latents"], []
    for column in COLUMNS:
        head += [f"{column}: {name}" for name in ("one", "two", "ratio")]
    for case in best["threads"]:
        rows.append([_latents(case)])
        for column in COLUMNS:
            one, two = case["microseconds"][column]["one"], case["microseconds"][column]["two"]
            rows[-1] += [f"{one:.0f}", f"{two:.0f}", f"{one / two:.2f}"]
    return table(head, rows)


def projection(result: Result) -> str:
    """Return the native projection's times, and the peers' as multiples of it."""
    about = ("projection", "of the loss", "torch", "compile", "rfft + irfft")
    head = ["latents", *(f"{column}: {name}" for column in COLUMNS for name in about)]
    rows = []
    for case in result["cases"]:
        rows.append([_latents(case)])
        for column in COLUMNS:
            us = case["microseconds"][column]
            native = us["native"]
            rows[-1] += [time_text(native), f"{native / us['loss']:.2f}"]
            rows[-1] += [f"{us[o] / native:.1f}" for o in ("torch", "compile", "rfft_irfft")]
    return f"{result['instruction_set']}:\n\n" + table(head, rows)


def drift(result: Result) -> str:
    """Return our times in ms and the peers' as multiples, for each list, task and threads."""
    others = ("loop", "foreach", "compile")
    about = ("ours", *(f"{other} / ours" for other in others))
    head = ["list", "task", *(f"{column}: {name}" for column in COLUMNS for name in about)]
    rows = []
    for case in result["cases"]:
        millions = f"{case['numbers'] / 1e6:.1f} M numbers in {case['tensors']} tensors"
        threads = f"{case['threads']} thread" + ("s" if case["threads"] > 1 else "")
        for task, times in case["microseconds"].items():
            rows.append([f"{case['list']}: {millions}, {threads}", task])
            for column in COLUMNS:
                us = times[column]
                ratios = [f"{us[o] / us['ours']:.2f}" if o in us else "" for o in others]
                rows[-1] += [f"{us['ours'] / 1000:.1f} ms", *ratios]
    return "\n" + table(head, rows) + "\n"
