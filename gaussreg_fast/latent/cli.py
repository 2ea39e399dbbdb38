"""The command line: `gaussreg-fast demo`, `check`, `backends`.

Exit codes: 0 fine, 1 the latents are not Gaussian (`check`), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import gaussreg_fast
from gaussreg_fast.latent import checkerboard, files, report

app = typer.Typer(
    name="gaussreg-fast",
    help="Gaussianity losses for latent optimisation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
BAD_INPUT = 2


class _Usage(ValueError):
    """Bad input: one line on stderr, exit code 2."""


def run() -> None:
    """Runs the command line; what a user can mend is one line, never a traceback."""
    try:
        app()
    except (_Usage, files.LatentFileError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)


def _version(asked: bool) -> None:
    if asked:
        print(gaussreg_fast.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for demo.png, demo.md, demo.json.")] = Path(
        "demo-out"
    ),
    samples: Annotated[int, typer.Option(min=1, help="Latents to optimise.")] = 4,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations per guard.")] = 100,
    shuffles: Annotated[int, typer.Option(min=0, help="PRNO's shuffles.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of the noise and permutations.")] = 0,
) -> None:
    """Rerun the checkerboard-recovery experiment: which guard sees the structure?"""
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):  # better now than after a minute of computing
        raise _Usage(f"{out}: not writable")
    console = Console()
    guards = checkerboard.methods(shuffles)
    total = sum(iterations if guard.optimizer else 1 for guard in guards)
    columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("start", total=total)

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name)

        outcomes = checkerboard.experiment(samples, iterations, seed, shuffles, advance)
    result = report.as_json(outcomes, samples, seed)
    console.print(_table(result))
    for path in report.save(outcomes, result, out):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _table(result: dict[str, Any]) -> Table:
    """Narrow enough for 80 columns."""
    table = Table(
        title=f"Checkerboard recovery, {result['samples']} latents of 4 x 64 x 64, means",
        caption="left: of the pattern; cos: to the start; p: of being white Gaussian noise",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for name in report.SHORT:
        table.add_column(name, justify="left" if name == "guard" else "right", no_wrap=True)
    for row in report.table_rows(result):
        table.add_row(*row[: len(report.SHORT)])
    return table


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help=".safetensors, .npy, .npz or .pt, (B, ...).")],
    key: Annotated[str | None, typer.Option(help="Which tensor, if there are several.")] = None,
    single: Annotated[bool, typer.Option(help="The file holds one sample, not a batch.")] = False,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Level of the verdict.")] = 0.01,
    plot: Annotated[Path | None, typer.Option(help="Write a picture of one sample.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="The sample for --plot.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Tell how Gaussian the latents in a file are. Exit code 1 if they are not."""
    latents = files.load_latents(file, key)
    try:
        diagnosis = gaussreg_fast.diagnose(latents[None] if single else latents)
        figure = diagnosis.plot(sample) if plot else None
    except (TypeError, ValueError, IndexError, ImportError, RuntimeError) as error:
        hint = "" if single or latents.dim() != 1 else " (or pass --single)"
        raise _Usage(f"{file}: {error}{hint}") from error
    if plot and figure:
        if plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise _Usage(f"{plot}: the picture must be a .png, .pdf or .svg file")
        with files.atomic_path(plot) as temporary:
            figure.savefig(temporary, dpi=110)
    if as_json:
        print(files.json_text(_diagnosis_json(diagnosis, alpha)))
    else:
        print(diagnosis)
    raise typer.Exit(0 if diagnosis.gaussian(alpha) else 1)


def _diagnosis_json(d: gaussreg_fast.Diagnosis, alpha: float) -> dict[str, Any]:
    return {
        "shape": list(d.shape),
        "gaussian": d.gaussian(alpha),
        "alpha": alpha,
        "batch_p_value": d.batch_p_value,
        "p_value": d.p_value.tolist(),
        "p_values": {name: p.tolist() for name, p in d.p_values.items()},
        "moments": d.moments.tolist(),
        "moment_z": d.moment_z.tolist(),
        "lag1": d.lag1.tolist(),
        "power": d.power.tolist(),
        "power_z": d.power_z.tolist(),
    }


@app.command()
def backends() -> None:
    """Tell which backends can run here, and why one cannot."""
    for name, state in gaussreg_fast.backends().items():
        print(f"{name}: {state}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
