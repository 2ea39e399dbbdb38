"""Measure a GPU in ten minutes: `python -m bench gpu`, one staged run with a clock.

    stage   a section of the run with an expected time; see plan.py
    part    a unit of a stage: one row of the result, with an expected time of its own
    run     the stages in order, each in a process of its own, and the file with all rows

A rehearsal (rehearsal.py) runs the same parts on CPU tensors, with the compiled kernels executed by
the simulator.
"""
