"""Logging: structlog's calls on top of the standard library's loggers, so that a program that imports kvbatch decides
where they go. The command line sends them to stderr."""

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import structlog

__all__ = ["Logger", "configure_for_command_line"]


class Logger:
    """`log.info("event", key=value)`: one line, `event key=value`, for the logger `name` of `logging`.

    structlog is imported by the first line: that takes a tenth of a second, and most commands have none.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _structured(self) -> structlog.stdlib.BoundLogger:
        import structlog

        return cast(
            structlog.stdlib.BoundLogger,
            structlog.wrap_logger(
                logging.getLogger(self._name),
                wrapper_class=structlog.stdlib.BoundLogger,
                processors=[
                    structlog.stdlib.filter_by_level,
                    structlog.processors.format_exc_info,
                    structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
                ],
            ),
        )

    def info(self, event: str, **fields: object) -> None:
        self._structured.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        self._structured.warning(event, **fields)

    def exception(self, event: str, **fields: object) -> None:
        """With the traceback of the exception that is being handled."""
        self._structured.exception(event, **fields)


def configure_for_command_line() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
