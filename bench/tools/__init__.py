"""Tools for maintainers: tables of results for the pages, runs for sanitizers."""
