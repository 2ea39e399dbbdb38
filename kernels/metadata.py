"""Launch metadata for profilers: the bytes that a launch must move, and its operations.

Triton asks for it only while a profiler runs. A transform of N complex points counts as usual as
5 N log2 N operations, although its radices save some of them.
"""

from math import log2


def work(samples, numbers):
    """Return a kernel's `launch_metadata`.

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
    """Return the operations of complex transforms of so many points."""
    return 5 * points * log2(points) * columns


def by_part(grid, args):
    """Return the samples of a grid of one dimension with PARTS programs per sample."""
    return grid[0] // args.get("PARTS", 1)


def by_second(grid, args):
    """Return the samples of a grid (programs, samples)."""
    return grid[1]


def named_work(numbers):
    """Return the `launch_metadata` of a kernel without samples.

    Args:
        numbers: (grid, arguments) -> bytes and operations of a launch.
    """

    def metadata(grid, kernel, args):
        moved, operations = numbers(grid, args)
        name = f"gaussreg_fast.{kernel.name}<N={args['numbers']}>"
        return {"name": name, "bytes": moved, "flops32": operations}

    return metadata
