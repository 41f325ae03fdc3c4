"""The architectures: one a file."""
