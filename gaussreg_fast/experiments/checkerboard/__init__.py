"""The checkerboard-recovery experiment: its study and its report."""
