"""Log lines of this process and of the workers that it starts, for people or for programs."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

VARIABLE = "RL_COMPRESS_LOG"
"""Environment variable that hands level and format on to workers, as ``INFO:json``."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what a record has as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if _is_extra(key)},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _is_extra(key: str) -> bool:
    return key not in _STANDARD and not key.startswith("_")  # Ray adds such of its own


def configure(level: int, form: LogFormat) -> None:
    """Send log lines to standard error, here and in workers started from now on."""
    os.environ[VARIABLE] = f"{logging.getLevelName(level)}:{form}"
    configure_from_environment()


def configure_from_environment() -> None:
    """Set up logging as the process that started this one has; nothing if that is done."""
    level, _, form = os.environ.get(VARIABLE, "").partition(":")
    if not level or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if form == "json" else logging.Formatter("%(levelname)s %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler])
