"""The command line: `gaussreg-fast` or `python -m gaussreg_fast`; needs `gaussreg_fast[cli]`."""
