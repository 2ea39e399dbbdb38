"""What is measured: cases, ours and its peers, and whether they are right."""
