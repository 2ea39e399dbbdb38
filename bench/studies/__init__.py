"""The committed measurements: `python -m bench study NAME`."""
