"""The parts of every measurement: clocks, memory, the machine, result files, text."""
