"""Makes of the checkpoint the files that competitors load, each in a process of its own.

Files stay in the work folder, so that a later run makes none.
"""

import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backends.contract import Setup
from backends.process import worker_environment

__all__ = ["STEPS", "Preparation", "Step", "prepare"]

Step = Literal["export", "openvino", "gguf"]
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """One script.

    Attributes:
        makes: the file that is there once it has run.
        environment: whose Python runs it.
        script: beside this module.
        arguments: for it.
        title: for people.
    """

    makes: str
    environment: Literal["torch", "openvino", "llama"]
    script: str
    arguments: Callable[[Setup], list[str]]
    title: str


#: In the order in which they need one another.
STEPS: Mapping[Step, Preparation] = {
    "export": Preparation(
        makes="plain-int8.onnx",
        environment="torch",
        script="plain_export.py",
        arguments=lambda setup: [*map(str, (setup.checkpoint, setup.work)), setup.task],
        title="the text part by torch.onnx.export, and its dynamic INT8",
    ),
    "openvino": Preparation(
        makes="openvino-int8.xml",
        environment="openvino",
        script="openvino_export.py",
        arguments=lambda setup: [
            str(setup.work),
            str(setup.num_ids),
            ",".join(map(str, setup.excluded)),
        ],
        title="its static INT8 by NNCF",
    ),
    "gguf": Preparation(
        makes="text-q8_0.gguf",
        environment="llama",
        script="gguf_export.py",
        arguments=lambda setup: [*map(str, (setup.checkpoint, setup.work)), setup.task],
        title="a GGUF file of the text part",
    ),
}


def prepare(
    setup: Setup,
    steps: Iterable[Step],
    python: Callable[[str], Path],
    said: Callable[[str], None],
) -> None:
    """Make the files that are missing; what fails is said, and its competitors then say it too.

    Args:
        setup: the model and the work folder.
        steps: those needed.
        python: interpreter of an environment.
        said: told what happens.
    """
    setup.work.mkdir(parents=True, exist_ok=True)
    wanted = set(steps)
    for name, step in STEPS.items():
        if name not in wanted or (setup.work / step.makes).exists():
            continue
        said(f"making {step.title}, once")
        log = setup.work / f"{name}.log"
        with log.open("wb") as out:
            run = subprocess.run(
                [python(step.environment), HERE / step.script, *step.arguments(setup)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=worker_environment(setup),
            )
        if run.returncode:
            said(f"  failed, and so will the competitors that need it; see {log}")
