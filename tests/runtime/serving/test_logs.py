import json
import logging

from trine.runtime.serving.logs import JsonFormatter


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
