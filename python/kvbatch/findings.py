"""What is found out about a target before a job runs, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "FindingKind"]

FindingKind = Literal["note", "warning", "refusal"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A note; a warning, which does not keep the job from running; or a refusal, which does."""

    kind: FindingKind
    what: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "what": self.what, "message": self.message}
