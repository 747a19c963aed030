import argparse
import dataclasses
from pathlib import Path

import pytest

from trine.runtime.commands.serve import register, run
from trine.runtime.errors import InputError
from trine.runtime.serving.config.settings import ServerSettings
from trine.runtime.serving.config.settings_sources import add_flags, read_settings

HASH = "0" * 64


def from_flags(*words: str, environment: dict[str, str] | None = None) -> ServerSettings:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", nargs="?")
    add_flags(parser)
    given = parser.parse_args(words)
    return read_settings(vars(given), environment or {}, given.config)


def test_every_setting_has_a_flag_a_variable_and_a_key(tmp_path: Path) -> None:
    flags = argparse.ArgumentParser()
    add_flags(flags)
    shown = flags.format_help()
    for option in dataclasses.fields(ServerSettings):
        if option.name != "bundle":
            assert f"--{option.name.replace('_', '-')}" in shown


def test_flags_come_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('bundle = "b"\nport = 1\nworkers = 2\nmax_items = 3\ntasks = ["code"]\n')
    found = from_flags(
        "--config", str(file), "--port", "7", environment={"TRINE_PORT": "8", "TRINE_WORKERS": "9"}
    )
    assert (found.port, found.workers, found.max_items) == (7, 9, 3)
    assert (found.bundle, found.tasks, found.host) == (Path("b"), ("code",), "127.0.0.1")


def test_a_former_name_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "server.toml"
    file.write_text('foreign_token_ids = "cl100k"\n')
    for found in (
        from_flags("b", "--foreign-token-ids", "cl100k"),
        from_flags("b", "--config", str(file)),
        from_flags("b", environment={"TRINE_FOREIGN_TOKEN_IDS": "cl100k"}),
    ):
        assert found.token_ids == "cl100k"
    assert caplog.text.count("is now called token_ids") == 3


def test_lists_are_repeated_or_separated_by_commas() -> None:
    found = from_flags("b", "--fetch-hosts", "a.example, b.example", "--fetch-hosts", "c.example")
    assert found.fetch_hosts == ("a.example", "b.example", "c.example")
    assert from_flags("b", environment={"TRINE_TASKS": "code,retrieval"}).tasks == (
        "code",
        "retrieval",
    )


def test_under_kubernetes_a_server_serves_on_after_sigterm_unless_told_otherwise() -> None:
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert from_flags("b").drain_delay == 0
    assert from_flags("b", environment=inside).drain_delay == 5
    assert from_flags("b", "--drain-delay", "0", environment=inside).drain_delay == 0
    with pytest.raises(InputError, match="drain_delay is -1"):
        from_flags("b", "--drain-delay", "-1")


@pytest.mark.parametrize(("word", "value"), [("true", True), ("0", False)])
def test_switches_are_words_in_the_environment(word: str, value: bool) -> None:
    assert from_flags("b", environment={"TRINE_TELEMETRY": word}).telemetry is value
    assert from_flags("b", "--telemetry").telemetry


@pytest.mark.parametrize(
    ("words", "environment", "sentence"),
    [
        ([], {}, "no bundle was named"),
        (["b", "--port", "http"], {}, "--port is 'http'; give a whole number"),
        (["b", "--port", "70000"], {}, "port is 70000; give one of 0 to 65535"),
        (["b", "--max-items", "0"], {}, "max_items is 0; give a number above 0"),
        (["b", "--log-level", "loud"], {}, "--log-level is 'loud'; give one of"),
        (["b", "--api-keys", "secret"], {}, "not NAME=HASH"),
        (["b", "--api-keys", f"a={HASH},a={HASH}"], {}, "a name twice"),
        (["b", "--admin-key", "secret"], {}, "admin_key is not a SHA-256"),
        (["b"], {"TRINE_PROT": "1"}, "TRINE_PROT is no setting"),
        (["b"], {"TRINE_REQUEST_TIMEOUT": "soon"}, "TRINE_REQUEST_TIMEOUT is 'soon'"),
        (["b"], {"TRINE_TELEMETRY": "maybe"}, "give true or false"),
        (["b", "--request-timeout", "nan"], {}, "request_timeout is nan; give a number above 0"),
        (["b"], {"TRINE_DRAIN_TIMEOUT": "inf"}, "drain_timeout is inf"),
    ],
)
def test_what_cannot_be_used_is_named(
    words: list[str], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InputError, match="(?s)" + sentence.replace("(", r"\(")):
        from_flags(*words, environment=environment)


def test_a_variable_names_the_file_where_no_flag_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.toml"
    file.write_text('bundle = "b"\nmax_items = 3\n')
    monkeypatch.setenv("TRINE_CONFIG", str(file))
    found: list[ServerSettings] = []
    monkeypatch.setattr(
        "trine.runtime.serving.workers.server.serve", lambda s: found.append(s) or 0
    )
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    assert run(parser.parse_args(["serve"])) == 0
    assert found[0].max_items == 3


def test_a_key_is_never_shown_in_an_error() -> None:
    with pytest.raises(InputError) as refused:
        from_flags("b", "--api-keys", "sesame")
    assert "sesame" not in str(refused.value)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(b'\xef\xbb\xbfbundle = "b"\nmax_items = 3\n')
    assert from_flags("--config", str(file)).max_items == 3


@pytest.mark.parametrize(
    "text", ["port = true", "port = 1.5", "nonsense = 1", "tasks = [1]", "port =", "host = 1"]
)
def test_a_file_with_a_wrong_value_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"server\.toml"):
        from_flags("b", "--config", str(file))


def test_variables_that_kubernetes_sets_for_a_service_are_no_settings() -> None:
    links = {
        "TRINE_PORT": "tcp://10.0.0.1:8000",
        "TRINE_SERVICE_HOST": "10.0.0.1",
        "TRINE_PORT_8000_TCP_PROTO": "tcp",
        "TRINE_WEB_SERVICE_HOST": "10.0.0.2",
        "TRINE_WEB_SERVICE_PORT": "80",
        "TRINE_WEB_SERVICE_PORT_HTTP": "80",
        "TRINE_WEB_PORT": "tcp://10.0.0.2:80",
        "TRINE_WEB_PORT_80_TCP": "tcp://10.0.0.2:80",
        "TRINE_WEB_PORT_80_TCP_ADDR": "10.0.0.2",
    }
    assert from_flags("b", environment=links).port == 8000
    with pytest.raises(InputError, match="TRINE_WEB_PORTS is no setting"):
        from_flags("b", environment={"TRINE_WEB_PORTS": "80"})


@pytest.mark.parametrize("variable", ["TRINE_CPU", "TRINE_PDF_PASSWORD"])
def test_variables_of_other_parts_of_the_program_are_no_settings(variable: str) -> None:
    assert from_flags("b", environment={variable: "portable"}).bundle == Path("b")
