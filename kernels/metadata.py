"""Launch metadata: what a profiler shows of a launch, the bytes that must move and the operations.

Triton asks for it only where a profiler listens. Operations of a transform are counted as is usual,
5 N log2 N for N complex points, whatever its radices save.
"""

from math import log2


def work(samples, numbers):
    """A kernel's `launch_metadata`.

    Args:
        samples: (grid, arguments) -> how many samples a launch computes.
        numbers: (arguments) -> bytes and operations of one sample.
    """

    def metadata(grid, kernel, args):
        batch = samples(grid, args)
        moved, operations = numbers(args)
        return {
            "name": f"gaussreg_fast.{kernel.name}<D={args['D']}, B={batch}>",
            "bytes": batch * moved,
            "flops32": int(batch * operations),
        }

    return metadata


def transform(points, columns=1):
    """Operations of complex transforms of so many points."""
    return 5 * points * log2(points) * columns


def by_part(grid, args):
    """Samples of a grid of one dimension with PARTS programs per sample."""
    return grid[0] // args.get("PARTS", 1)


def by_second(grid, args):
    """Samples of a grid (programs, samples)."""
    return grid[1]


def named_work(numbers):
    """A kernel's `launch_metadata` where there are no samples.

    Args:
        numbers: (grid, arguments) -> bytes and operations of a launch.
    """

    def metadata(grid, kernel, args):
        moved, operations = numbers(grid, args)
        name = f"gaussreg_fast.{kernel.name}<N={args['numbers']}>"
        return {"name": name, "bytes": moved, "flops32": operations}

    return metadata
