"""A real server and what its vectors must be, for tests with other projects' clients.

Not part of the default run: `make test-clients` makes an environment with the clients first.
"""

import base64
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from tests.runtime.serving.server_process import running_server
from trine import Embedder, ImageText
from trine.runtime.inputs import Item

#: Largest difference of one number of a normalised vector from that of `Embedder.encode`: batches
#: differ, and clients print floats as decimals.
TOLERANCE = 2e-5
MODEL = "jina-embeddings-v4"
TEXTS = ["a relational database with SQL queries", "a chess game", "a blue square", "déjà vu 中文"]
IMAGES = Path(__file__).parents[2] / "export" / "nano" / "demo" / "pictures"


@pytest.fixture(scope="session")
def server(nano_bundle: Path) -> Iterator[str]:
    """URL of a server of the built-in checkpoint, which asks for no key."""
    with running_server(nano_bundle) as url:
        yield url


@pytest.fixture(scope="session")
def embedder(nano_bundle: Path) -> Embedder:
    """What the server's vectors are compared with."""
    return Embedder.load(nano_bundle)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts to embed."""
    return TEXTS


@pytest.fixture(scope="session")
def image_path() -> Path:
    """An image, as PNG."""
    return IMAGES / "01-a-blue-square.png"


@pytest.fixture(scope="session")
def image_uri(image_path: Path) -> str:
    """The same as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image_path.read_bytes()).decode()


@pytest.fixture(scope="session")
def expected(embedder: Embedder) -> Callable[..., NDArray[np.float32]]:
    """From items (texts; bytes or paths of images) to their single vectors."""

    def single(
        items: Sequence[str | bytes | Path],
        prompt: str = "query",
        task: str = "retrieval",
        dim: int | None = None,
    ) -> NDArray[np.float32]:
        made = [item_of(item) for item in items]
        found = embedder.encode(made, task=task, prompt_name=prompt, truncate_dim=dim).single
        assert found is not None
        return found

    return single


@pytest.fixture(scope="session")
def expected_multi(embedder: Embedder) -> Callable[..., list[NDArray[np.float32]]]:
    """From items to their multi-vectors."""

    def multi(
        items: Sequence[str | bytes | Path], prompt: str = "query", task: str = "retrieval"
    ) -> list[NDArray[np.float32]]:
        made = [item_of(item) for item in items]
        found = embedder.encode(
            made, task=task, prompt_name=prompt, return_single=False, return_multivector=True
        ).multi
        assert found is not None
        return found

    return multi


def item_of(source: str | bytes | Path) -> Item:
    """Return an item of `Embedder.encode`."""
    if isinstance(source, str):
        return source
    return ImageText((source if isinstance(source, bytes) else source.read_bytes(),))


@pytest.fixture(scope="session")
def close() -> Callable[[ArrayLike, ArrayLike], None]:
    """Asserts that vectors are those expected."""

    def check(found: ArrayLike, wanted: ArrayLike) -> None:
        np.testing.assert_allclose(np.asarray(found, np.float32), wanted, atol=TOLERANCE)

    return check


@pytest.fixture(scope="session")
def as_file() -> Callable[[Path, str], bytes]:
    """From an image and a format to the bytes that a client that converts images sends."""

    def convert(path: Path, form: str) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        with Image.open(path) as image:
            image.save(file, format=form)
        return file.getvalue()

    return convert


@pytest.fixture(scope="session")
def run_node() -> Callable[..., str]:
    """Runs a script in Node with packages of `NODE_PATH`; returns what it prints."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")

    def run(package: str, script: str, **environment: str) -> str:
        known = subprocess.run(["node", "-e", f"require.resolve({package!r})"], capture_output=True)
        if known.returncode:
            pytest.skip(f"the npm package {package} is not in NODE_PATH")
        done = subprocess.run(
            ["node", "-e", script],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
