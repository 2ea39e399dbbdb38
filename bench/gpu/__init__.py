"""What a GPU says in ten minutes: `python -m bench gpu`, one staged run with a clock.

    stage   a part of the run with an expected time; see plan.py
    part    what a stage is made of: one row of the result, with an expected time of its own
    run     the stages in order, each in a process of its own, and the file with all rows

Every part exists once: on a GPU it runs as it is, in a rehearsal (rehearsal.py) on CPU tensors,
with the compiled kernels executed by the simulator.
"""
