"""Logging: structlog's calls on top of the standard library's loggers, so that a program that imports kvbatch decides
where they go. The command line sends them to stderr."""

from __future__ import annotations

import logging
import sys
from typing import cast

import structlog

__all__ = ["configure_for_command_line", "get_logger"]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """`log.info("event", key=value)`: one line, `event key=value`, for the logger `name` of `logging`."""
    return cast(
        structlog.stdlib.BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(name),
            wrapper_class=structlog.stdlib.BoundLogger,
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
            ],
        ),
    )


def configure_for_command_line() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
