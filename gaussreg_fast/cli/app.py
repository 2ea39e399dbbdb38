"""The command line: `gaussreg-fast demo`, `optimize`, `check`, `backends`.

Exit codes are those of `gaussreg_fast._exit_codes`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import gaussreg_fast
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import atomic_path, json_text, user_path
from gaussreg_fast.cli.demo import demo
from gaussreg_fast.errors import InputError, first_line
from gaussreg_fast.latent.files import ENDINGS, load_latents

app = typer.Typer(
    name="gaussreg-fast",
    help="Check how Gaussian latents are, optimise them, and rerun the experiments.",
    epilog="Exit codes: 0 done, 1 the answer is no, 2 bad input, 3 the machine lacks memory, disk "
    "or a device, 70 a mistake in a program, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)


def _add_optimize() -> None:
    """Add `optimize`, or, if its packages are missing, a command that says how to install them."""
    try:
        from gaussreg_fast.cli.optimize import optimize
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gaussreg_fast"):
            raise
        missing = error.name

        @app.command("optimize", context_settings={"ignore_unknown_options": True})
        def unavailable(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
            """Optimise starting noises: needs `pip install 'gaussreg_fast[latent]'`."""
            raise InputError(f"optimize needs {missing}: pip install 'gaussreg_fast[latent]'")

        return
    app.command()(optimize)


_add_optimize()


def _print_version(requested: bool) -> None:
    if requested:
        print(gaussreg_fast.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help=f"File with latents of shape (B, ...): {', '.join(ENDINGS)}.")
    ],
    key: Annotated[
        str | None, typer.Option(help="Name of the tensor, if the file holds several.")
    ] = None,
    single: Annotated[bool, typer.Option(help="The file holds one sample, not a batch.")] = False,
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Significance level of the verdict.")
    ] = 0.01,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of one sample to this file.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Index of the sample that --plot shows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Test whether the latents in a file are white Gaussian noise. Exit code 1 if they are not."""
    latents = load_latents(file, key)
    try:
        diagnosis = gaussreg_fast.diagnose(latents[None] if single else latents)
        figure = diagnosis.plot(sample) if plot else None
    except (TypeError, ValueError, IndexError, ImportError, RuntimeError) as error:
        hint = "" if single or latents.dim() != 1 else " (or pass --single)"
        raise InputError(f"{file}: {first_line(error)}{hint}") from error
    if plot and figure:
        plot = user_path(plot)
        if plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise InputError(f"{plot}: the picture must be a .png, .pdf or .svg file")
        with atomic_path(plot) as temporary:
            figure.savefig(temporary, dpi=110)
    if as_json:
        print(json_text(_diagnosis_json(diagnosis, alpha)))
    else:
        print(diagnosis)
    raise typer.Exit(Exit.DONE if diagnosis.gaussian(alpha) else Exit.NO)


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
    """List the backends. For one that cannot run here, give the reason."""
    for name, state in gaussreg_fast.backends().items():
        print(f"{name}: {state}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
