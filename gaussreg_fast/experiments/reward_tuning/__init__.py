"""Fine-tuning on a reward under three divergences: the study and its report."""
