"""What every measurement uses: clocks, memory, the machine, result files, words for the screen."""
