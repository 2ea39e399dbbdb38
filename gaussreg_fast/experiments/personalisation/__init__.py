"""A new sign learnt from a few images: the study and its report."""
