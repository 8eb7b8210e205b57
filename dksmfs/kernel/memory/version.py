"""Whether anything has changed that decides what becomes of advertised pages."""


class Version:
    """`number` grows with every such change; all parts of a machine count with the same one."""

    def __init__(self) -> None:
        self.number = 0

    def change(self) -> None:
        """Note a change."""
        self.number += 1
