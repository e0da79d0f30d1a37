"""How a defect of the gateway is told: by type and place, as its message may hold something of a request."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

__all__ = ["DEFECT", "defect_logger", "describe_defect"]

DEFECT = "the gateway failed at this request, by a defect of its own; the server's log says where"
"""What the caller is told."""


def describe_defect(error: BaseException) -> str:
    """Say what happened where."""
    where = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    return f"gateway: unexpected {type(error).__name__}:\n{where}"


class _DefectHandler(logging.Handler):
    """Reports what aiohttp logs, but for what its clients do."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        from aiohttp import http_exceptions

        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, (http_exceptions.HttpProcessingError, ConnectionError)):
            return  # no defect: a malformed request, or a client that has gone
        self._report(describe_defect(error))


def defect_logger(report: Callable[[str], None] | None) -> logging.Logger:
    """A logger of its own for aiohttp, which passes nothing on to the process's."""
    logger = logging.Logger("longserve.gateway", logging.ERROR)
    logger.propagate = False
    logger.addHandler(logging.NullHandler() if report is None else _DefectHandler(report))
    return logger
