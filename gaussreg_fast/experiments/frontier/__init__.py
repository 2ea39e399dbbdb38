"""Reward against held-out score, guard by guard: the study, its analysis and its report."""
