"""`python -m bench check`: find calls that are slower than in a baseline. For users' CI."""
