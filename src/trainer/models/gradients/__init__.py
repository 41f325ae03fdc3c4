"""The backward pass of the two-layer network, written four ways: one a file."""
