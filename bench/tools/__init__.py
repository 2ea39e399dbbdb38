"""What maintainers run: pages made of results, and sanitizers."""
