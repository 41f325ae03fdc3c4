"""Why some runs can't be trained as one program."""


class CannotStack(Exception):
    """These runs must be trained one by one; the message says why, in one line."""
