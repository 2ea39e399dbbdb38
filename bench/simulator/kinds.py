"""The kinds of findings of the simulator."""

from __future__ import annotations

import enum

_BETWEEN = "no barrier between"
_STEP = "of a warp's lanes, no bar.warp.sync between"
_ORDERED = "of a warp's lanes, ordered by a shuffle or the like alone"


class Kind(enum.Enum):
    """A kind of finding with its text and severity.

    Severities are "error"; "lockstep", which is right only while a warp's lanes run in step, as
    CUDA does not promise; and "same value", a conflict in which both write the same.
    """

    SHARED_UNWRITTEN = "shared: read of memory that nothing has written", "error"
    SHARED_OUTSIDE = "shared: out of bounds", "error"
    SHARED_READ_AFTER_WRITE = f"shared: read after write by another warp, {_BETWEEN}", "error"
    SHARED_WRITE_AFTER_READ = f"shared: write after read by another warp, {_BETWEEN}", "error"
    SHARED_WRITE_AFTER_WRITE = f"shared: write after write by another warp, {_BETWEEN}", "error"
    SHARED_SAME_VALUE = "shared: two warps write the same value", "same value"
    SHARED_ONE_STORE = "shared: two lanes write different values in one instruction", "error"
    SHARED_STEP_READ_AFTER_WRITE = f"shared: read after write {_STEP}", "lockstep"
    SHARED_STEP_WRITE_AFTER_READ = f"shared: write after read {_STEP}", "lockstep"
    SHARED_STEP_WRITE_AFTER_WRITE = f"shared: write after write {_STEP}", "lockstep"
    SHARED_ORDERED_READ_AFTER_WRITE = f"shared: read after write {_ORDERED}", "lockstep"
    SHARED_ORDERED_WRITE_AFTER_READ = f"shared: write after read {_ORDERED}", "lockstep"
    SHARED_ORDERED_WRITE_AFTER_WRITE = f"shared: write after write {_ORDERED}", "lockstep"
    GLOBAL_UNWRITTEN = "global: read of memory that nothing has written", "error"
    GLOBAL_OUTSIDE = "global: out of bounds", "error"
    GLOBAL_READ_AFTER_WRITE = f"global: read after write by another warp, {_BETWEEN}", "error"
    GLOBAL_WRITE_AFTER_READ = f"global: write after read by another warp, {_BETWEEN}", "error"
    GLOBAL_WRITE_AFTER_WRITE = f"global: write after write by another warp, {_BETWEEN}", "error"
    GLOBAL_SAME_VALUE = "global: two warps write the same value", "same value"
    GLOBAL_ONE_STORE = "global: two lanes write different values in one instruction", "error"
    GLOBAL_STEP_READ_AFTER_WRITE = f"global: read after write {_STEP}", "lockstep"
    GLOBAL_STEP_WRITE_AFTER_READ = f"global: write after read {_STEP}", "lockstep"
    GLOBAL_STEP_WRITE_AFTER_WRITE = f"global: write after write {_STEP}", "lockstep"
    GLOBAL_ORDERED_READ_AFTER_WRITE = f"global: read after write {_ORDERED}", "lockstep"
    GLOBAL_ORDERED_WRITE_AFTER_READ = f"global: write after read {_ORDERED}", "lockstep"
    GLOBAL_ORDERED_WRITE_AFTER_WRITE = f"global: write after write {_ORDERED}", "lockstep"
    PROGRAMS_READ_AFTER_WRITE = "global: a program reads and another one writes", "error"
    PROGRAMS_WRITE_AFTER_READ = "global: a program writes and another one reads", "error"
    PROGRAMS_WRITE_AFTER_WRITE = "global: two programs write different values", "error"
    PROGRAMS_SAME_VALUE = "global: two programs write the same value", "same value"
    MISALIGNED = "an address that is no multiple of the access's size", "error"
    APART = "not all lanes that a .sync or .uni instruction names take part", "error"
    ABSENT_LANE = "a shuffle reads from a lane that does not take part", "error"
    BARRIER_APART = "a warp's lanes do not arrive at a barrier together", "error"
    BARRIERS_DIFFER = "warps wait at different barriers", "error"
    BARRIER_EXITED = "warps wait at a barrier while others have exited", "error"
    ENDLESS = "a program ran for too many instructions and was stopped", "error"

    def __init__(self, text: str, severity: str):
        self.text = text
        self.severity = severity

    @property
    def number(self) -> int:
        """The kind's number in the interpreter."""
        return list(Kind).index(self)
