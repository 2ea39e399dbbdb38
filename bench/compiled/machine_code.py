"""Compile one launch of a Triton kernel, and count registers, memory and instructions."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.compiled.pretended import ARCHS


@dataclass(frozen=True)
class Variant:
    """One launch of one kernel: everything that its compilation depends on."""

    name: str
    arch: str
    module: str
    kernel: str
    dimension: int
    signature: dict[str, Any]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: dict[str, Any]


@dataclass
class Notes:
    """The variants that launches would compile; `hook` serves Triton's hook before a compilation.

    Attributes:
        arch: architecture of the launches.
        label, dimension: given to the launches that follow.
        found: key -> variant, each once.
        needed: label -> keys in `found` that its launches need, also if an earlier label does.
    """

    arch: str
    label: str = ""
    dimension: int = 0
    found: dict[str, Variant] = field(default_factory=dict)
    needed: dict[str, set[str]] = field(default_factory=dict)

    def hook(self, *, key: str, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        """Note a compilation, each once, and return True, so that Triton skips it."""
        key = f"{fn.module}.{fn.name} {key}"
        self.needed.setdefault(self.label, set()).add(key)
        names = [v.name.partition(": ")[0] for v in self.found.values() if v.kernel == fn.name]
        count = names.count(self.label)
        options = json.loads(compile["specialization_data"])["options"]
        self.found.setdefault(
            key,
            Variant(
                f"{self.label}: {fn.name}" + (f" {count + 1}" if count else ""),
                self.arch,
                fn.module,
                fn.name,
                self.dimension,
                compile["signature"],
                compile["constants"],
                compile["configs"][0],
                {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()},
            ),
        )
        return True


# Instructions are counted by their names up to a dot. Those of gfx942 count under the names of
# their counterparts.
CUDA = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)")
CUDA_CLASSES = ("FFMA", "FADD", "FMUL", "FFMA2", "FADD2", "FMUL2", "MUFU", "SHFL", "BAR")
CUDA_CLASSES += ("LDS", "STS", "LDG", "STG", "LDL", "STL")
HIP = re.compile(r"^\t((?:[vs]|ds|global|flat|buffer|scratch)_\w+)", re.MULTILINE)
HIP_CLASSES = {
    "FFMA": r"v_(pk_)?(fma|fmac|fmaak|fmamk)_",
    "FADD": r"v_(pk_)?(add|sub|subrev)_f32",
    "FMUL": r"v_(pk_)?mul_f32",
    "MUFU": r"v_(rcp|rsq|sqrt|exp|log|sin|cos)_",
    "SHFL": r"ds_b?permute|ds_swizzle|v_\w+_dpp",
    "BAR": r"s_barrier",
    "LDS": r"ds_read",
    "STS": r"ds_write",
    "LDG": r"(global|flat|buffer)_load",
    "STG": r"(global|flat|buffer)_store",
    "LDL": r"scratch_load",
    "STL": r"scratch_store",
}
# Accumulators are vector registers that take spilled numbers before memory does.
HIP_METADATA = {
    "registers": "vgpr_count",
    "accumulators": "agpr_count",
    "scalars": "sgpr_count",
    "stack": "private_segment_fixed_size",
    "vgpr_spills": "vgpr_spill_count",
    "sgpr_spills": "sgpr_spill_count",
}


def compiled(variant: Variant) -> Any:
    """Compile a variant. The result stays in Triton's cache, where a launch finds it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(variant.module), variant.kernel)
    source = ASTSource(kernel, variant.signature, variant.constants, variant.attributes)
    target = GPUTarget(*ARCHS[variant.arch][0])
    return triton.compile(source, target=target, options=dict(variant.options))


def measured(variant: Variant) -> dict[str, int]:
    """Compile a launch and count; zeros are left out, except for the stack."""
    result = compiled(variant)
    if ARCHS[variant.arch][0][0] == "cuda":
        numbers, instructions = cuda_code(result.asm["cubin"])
        count = Counter(name for name in instructions if name != "NOP")
        classes = {name: count[name] for name in CUDA_CLASSES}
    else:
        text = result.asm["amdgcn"]
        numbers = {
            name: int(re.findall(rf"\.{key}:\s+(\d+)", text)[-1])
            for name, key in HIP_METADATA.items()
        }
        count = Counter(name for name in HIP.findall(text) if name != "s_nop")
        classes = {
            name: sum(n for instruction, n in count.items() if re.match(pattern, instruction))
            for name, pattern in HIP_CLASSES.items()
        }
    numbers = {**numbers, "shared": result.metadata.shared, "total": count.total(), **classes}
    return {name: n for name, n in numbers.items() if n or name == "stack"}


def cuda_code(cubin: bytes) -> tuple[dict[str, int], list[str]]:
    """Return a binary's registers and stack, and the names of its instructions in order."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = partial(subprocess.run, check=True, capture_output=True, text=True)
        usage = run([tool, "--dump-resource-usage", file.name]).stdout
        sass = run([tool, "-sass", file.name]).stdout
    numbers = {
        name: int(re.findall(rf"\b{key}:(\d+)", usage)[-1])
        for name, key in (("registers", "REG"), ("stack", "STACK"))
    }
    return numbers, CUDA.findall(sass)
