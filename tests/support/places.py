"""Where a target may stand, so that one test serves both ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import kvbatch


@dataclass(frozen=True)
class Place:
    """A root for targets, reached as directories or through a receiver."""

    root: Path
    receiver: kvbatch.Receiver | None = None

    def endpoint(self, name: str = "target") -> str:
        if self.receiver is None:
            return str(self.root / name)
        return f"kvbatch://127.0.0.1:{self.receiver.port}/{name}"

    def path(self, name: str = "target") -> Path:
        return self.root / name
