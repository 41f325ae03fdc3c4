"""What a model's arguments must be before layers are made of them."""


def refuse_no_size(**sizes: object) -> None:
    """Raises ValueError, which names the argument, where one is no whole number, 1 or more."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}={size}: must be a whole number, 1 or more")
