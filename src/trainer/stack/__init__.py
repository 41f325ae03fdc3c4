"""Many runs as one program: what differs between them are numbers, and each has a row of the same tensors."""
