"""What a reader of untrusted files must not run."""

import os
from pathlib import Path


class Malicious:
    """A pickle that makes the folder `mark` when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.mark),))
