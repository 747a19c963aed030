"""Reads settings: flags before environment before file before default."""

import argparse
import dataclasses
import logging
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from trine.kernels.cpu.library import LEVEL_VARIABLE
from trine.runtime.errors import InputError
from trine.runtime.serving.config.settings import ServerSettings

__all__ = ["CONFIG_VARIABLE", "add_flags", "read_settings"]

logger = logging.getLogger(__name__)

#: Settings under the name that they had before, which is read for one more release.
FORMER_NAMES = {"foreign_token_ids": "token_ids"}
ENVIRONMENT_PREFIX = "TRINE_"
#: Names the file of settings where no flag does.
CONFIG_VARIABLE = "TRINE_CONFIG"
#: Variables with the prefix that are no settings of the server.
OTHER_VARIABLES = (CONFIG_VARIABLE, LEVEL_VARIABLE, "TRINE_PDF_PASSWORD")
#: What follows the name of a service in the variables that Kubernetes sets for it.
SERVICE_LINK = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
#: Kubernetes sets this in every container. It takes a pod off its service's addresses at the same
#: time as it sends SIGTERM, and the nodes learn of that some seconds later.
KUBERNETES_VARIABLE = "KUBERNETES_SERVICE_HOST"
KUBERNETES_DRAIN_DELAY_S = 5.0
#: Words for booleans in the environment.
BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting, and `--config`; values are read by `read_settings`."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="a TOML file of settings")
    for option in dataclasses.fields(ServerSettings):
        if option.name == "bundle":
            continue
        name = "--" + option.name.replace("_", "-")
        text = option.metadata["help"].replace("%", "%%")
        if option.default not in (None, ()):
            text += f" (default: {option.default})"
        if option.type is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, help=text)
        elif get_origin(option.type) is tuple:
            text += "; may be repeated, or separated by commas"
            parser.add_argument(name, metavar="NAME", action="append", help=text)
        else:
            parser.add_argument(name, metavar=_placeholder(option.type), help=text)
    for former in FORMER_NAMES:
        flag = "--" + former.replace("_", "-")
        parser.add_argument(flag, help=argparse.SUPPRESS)


def read_settings(
    flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None
) -> ServerSettings:
    """Return the settings of a server.

    Args:
        flags: parsed command line; None for a flag that was not given.
        environment: of the process. Names after the prefix are the settings' in upper case;
            `CONFIG_VARIABLE` is for the caller, `LEVEL_VARIABLE` for the kernels.
        file: TOML with settings at the top level, or None.

    Raises:
        InputError: a value cannot be read, a name in the file or behind the prefix is unknown, or
            no bundle was named.
    """
    options = {option.name: option for option in dataclasses.fields(ServerSettings)}
    values: dict[str, Any] = _defaults(environment)
    for written, given in _from_file(file).items():
        name = _current_name(written)
        if name not in options:
            raise InputError(f"{file}: {written!r} is no setting; known are {sorted(options)}")
        values[name] = _typed(options[name], given, f"{file}: {written}")
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OTHER_VARIABLES:
            continue
        if _is_service_link(variable, text):
            continue
        name = _current_name(variable.removeprefix(ENVIRONMENT_PREFIX).lower())
        if name not in options:
            raise InputError(
                f"the environment's {variable} is no setting; known are "
                f"{sorted(ENVIRONMENT_PREFIX + option.upper() for option in options)}"
            )
        values[name] = _typed(options[name], text, variable)
    for written in (*FORMER_NAMES, *options):
        if flags.get(written) is not None:
            name = _current_name(written)
            flag = "--" + written.replace("_", "-")
            values[name] = _typed(options[name], flags[written], flag)
    if "bundle" not in values:
        raise InputError("no bundle was named; give its folder, or set TRINE_BUNDLE")
    return ServerSettings(**values)


def _defaults(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the defaults that depend on where the server runs."""
    return {"drain_delay": KUBERNETES_DRAIN_DELAY_S} if KUBERNETES_VARIABLE in environment else {}


def _current_name(name: str) -> str:
    """Return what a setting is called now, with a warning if it was given by its former name."""
    current = FORMER_NAMES.get(name, name)
    if current != name:
        logger.warning("the setting %s is now called %s; change its name", name, current)
    return current


def _is_service_link(variable: str, value: str) -> bool:
    """Return whether Kubernetes set a variable, for a service whose name begins with `trine`."""
    rest = variable.removeprefix(ENVIRONMENT_PREFIX)
    return bool(SERVICE_LINK.fullmatch(rest)) or (
        rest.rpartition("_")[2] == "PORT" and "://" in value
    )


def _from_file(file: Path | None) -> Mapping[str, object]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as cause:
        raise InputError(f"{file}: cannot be read as TOML ({cause}); check the file") from cause


def _typed(option: "dataclasses.Field[Any]", value: object, where: str) -> Any:
    """Return `value` of a flag, a variable or a TOML file as the setting's type."""
    kind: Any = option.type
    if isinstance(kind, types.UnionType):  # the only unions here are "or None"
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is tuple:
        return _names(value, where)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(f"{where} is {value!r}; give one of {list(get_args(kind))}")
        return value
    if kind is bool:
        return _boolean(value, where)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind in (int, float):
        return _number(kind, value, where)
    if not isinstance(value, str):
        raise InputError(f"{where} is {value!r}; give a text")
    return value


def _number(kind: type[int] | type[float], value: object, where: str) -> int | float:
    whole = "a whole number" if kind is int else "a number"
    try:
        if isinstance(value, str) or type(value) is int or (kind is float and type(value) is float):
            return kind(value)
    except ValueError:
        pass
    raise InputError(f"{where} is {value!r}; give {whole}")


def _names(value: object, where: str) -> tuple[str, ...]:
    parts: Sequence[object] = [value] if isinstance(value, str) else value  # type: ignore[assignment]
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise InputError(f"{where} is {value!r}; give a list of texts")
    return tuple(name.strip() for part in parts for name in str(part).split(",") if name.strip())


def _boolean(value: object, where: str) -> bool:
    found = BOOLEANS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise InputError(f"{where} is {value!r}; give true or false")
    return found


def _placeholder(kind: Any) -> str:
    parts = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return "N" if int in parts or float in parts else "PATH" if Path in parts else "TEXT"
