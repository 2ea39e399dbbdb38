"""`python -m bench check`: is anything slower than a baseline? For users' CI."""
