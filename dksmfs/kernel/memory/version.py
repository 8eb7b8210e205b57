"""The one counter of changes after which an outcome that was found before may be another."""


class Version:
    """`number` grows with each change that may alter what becomes of an advertised page.

    These are: a frame that a page descriptor names is freed, or gets another content (`Frames`,
    `FrameContents`); the number of a content gets another meaning (`ContentTable`); the table of
    page descriptors changes (`Hashtable`). All of them count with the machine's one `Version`.
    """

    def __init__(self) -> None:
        self.number = 0

    def change(self) -> None:
        """Note a change."""
        self.number += 1
