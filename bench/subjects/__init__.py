"""The cases, the calls of ours and its peers, and their correctness."""
