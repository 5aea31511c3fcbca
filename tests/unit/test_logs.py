from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys

from rl_compress.logs import VARIABLE, JsonFormatter


def _line(*arguments: object, **options: object) -> dict[str, object]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("rl_compress.test")
    logger.addHandler(handler)
    logger.info(*arguments, **options)  # type: ignore[arg-type]
    assert stream.getvalue().count("\n") == 1
    return json.loads(stream.getvalue())


def test_a_line_holds_the_message_and_the_fields() -> None:
    line = _line("%d of %d\nfür uns", 1, 2, extra={"run": "digits", "worker": 3, "score": -0.5})
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "rl_compress.test",
        "message": "1 of 2\nfür uns",
        "run": "digits",
        "worker": 3,
        "score": -0.5,
    }


def test_what_libraries_add_for_themselves_is_left_out() -> None:
    assert "_stamp" not in _line("hello", extra={"_stamp": 1})


def test_an_error_is_within_the_line() -> None:
    try:
        raise KeyError("gone")
    except KeyError as error:
        line = _line("unexpected", exc_info=error)
    assert "KeyError: 'gone'" in str(line["traceback"])


def test_workers_log_as_the_process_that_started_them() -> None:
    code = (
        "import logging; from rl_compress.logs import configure_from_environment as go\n"
        "go(); go(); logging.getLogger('a').info('hello'); logging.getLogger('a').debug('no')"
    )
    env = {**os.environ, VARIABLE: "INFO:json"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"] == "hello"
