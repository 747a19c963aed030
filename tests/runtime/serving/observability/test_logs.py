import asyncio
import json
import logging

import pytest

from trine.runtime.serving.observability.logs import WRITE_AFTER_S, JsonFormatter, RequestLog


def line(message: str, *arguments: object, **extra: object) -> dict[str, object]:
    logger = logging.getLogger("trine.test")
    record = logger.makeRecord(
        logger.name, logging.INFO, __file__, 1, message, arguments, None, extra=extra
    )
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_an_event_is_one_object() -> None:
    found = line("done in %d ms", 3, status=200, request_id="r")
    assert found["message"] == "done in 3 ms"
    assert (found["level"], found["logger"]) == ("info", "trine.test")
    assert (found["status"], found["request_id"]) == (200, "r")
    assert str(found["time"]).endswith("+00:00")


def test_line_breaks_and_odd_values_stay_within_the_line() -> None:
    found = line("a\nb", path="/x\n{}", kind=ValueError("no"))
    assert (found["message"], found["path"], found["kind"]) == ("a\nb", "/x\n{}", "no")


def test_an_exception_is_written_with_its_trace() -> None:
    try:
        raise ValueError("out of order")
    except ValueError as error:
        record = logging.LogRecord(
            "trine",
            logging.ERROR,
            __file__,
            1,
            "failed",
            (),
            (ValueError, error, error.__traceback__),
        )
    found = json.loads(JsonFormatter().format(record))
    assert "out of order" in found["exception"]


def test_lines_of_requests_are_written_together(capsys: pytest.CaptureFixture[str]) -> None:
    async def requests() -> str:
        log, off = RequestLog(True), RequestLog(False)
        for number in range(3):
            log.add({"path": "/embed", "number": number})
            off.add({"path": "/embed"})
        before = capsys.readouterr().err
        await asyncio.sleep(2 * WRITE_AFTER_S)
        return before

    assert asyncio.run(requests()) == ""
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2]
    assert {line["message"] for line in lines} == {"request"}
    assert all(line["time"].endswith("+00:00") for line in lines)
