"""What has names."""


class Named:
    """What has a number for each class or label, and perhaps a name."""

    names: tuple[str, ...]

    def name(self, label: int) -> str:
        """A class's name on one line and printable, or its number where it has none."""
        if label >= len(self.names):
            return str(label)
        # The name of a folder may hold line ends, and bytes that are no text.
        return " ".join(self.names[label].encode(errors="replace").decode().split())
