"""Processes that tests start."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

TIMEOUT_S = 100
"""For machines that are busy: no command takes a tenth of this on a quiet one."""


class Started(subprocess.Popen[str]):
    """A process that speaks text, is never waited for without end, and ends with a failing test."""

    def __init__(self, command: Sequence[str | Path], **options: Any) -> None:
        super().__init__(command, text=True, **options)

    def communicate(
        self, input: str | None = None, timeout: float | None = TIMEOUT_S
    ) -> tuple[str, str]:
        """As in Popen, TIMEOUT_S at most."""
        return super().communicate(input, timeout)

    def wait(self, timeout: float | None = TIMEOUT_S) -> int:
        """As in Popen, TIMEOUT_S at most."""
        return super().wait(timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.kill()
        super().__exit__(kind, error, trace)
