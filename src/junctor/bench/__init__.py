"""The bench: one honest protocol for every policy."""
