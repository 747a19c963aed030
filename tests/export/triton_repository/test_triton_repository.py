"""The repository's files and configs, and its Python backend on a stand-in for the server."""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from trine import Embedder, ImageText
from trine.export.triton_repository.model_config import ServedModel, TensorConfig, config_text
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.commands.program import main

TASKS = ("retrieval", "text-matching", "code")


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError(Exception):
    def message(self) -> str:
        return str(self)


class Response:
    def __init__(
        self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None
    ) -> None:
        self.tensors = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError:
        assert self._error is not None
        return self._error


class Request:
    """What Triton hands to the Python backend."""

    def __init__(self, outputs: Sequence[str], **columns: Sequence[object]) -> None:
        self._outputs = list(outputs)
        self.tensors = {name: Tensor(name, column(name, v)) for name, v in columns.items()}

    def requested_output_names(self) -> list[str]:
        return self._outputs


def column(name: str, values: Sequence[object]) -> NDArray[Any]:
    """Return [B, 1] as the server makes it: bytes for text."""
    if name == "DIMENSIONS":
        return np.array(values, np.int32)[:, None]
    encoded = [v.encode() if isinstance(v, str) else v for v in values]
    array = np.empty((len(encoded), 1), np.object_)
    array[:, 0] = encoded
    return array


class Server:
    """Stands in for a Triton server: it runs the repository's ONNX models with ONNX Runtime."""

    TRITONSERVER_MEMORY_CPU = 0
    Tensor = Tensor
    TritonError = TritonError
    InferenceResponse = Response

    def __init__(self, repository: Path, parse: Callable[[Path], Any]) -> None:
        self.repository = repository
        self.parse = parse
        self.calls: list[str] = []

    def PreferredMemory(self, kind: int, device: int) -> tuple[int, int]:
        return kind, device

    def get_input_tensor_by_name(self, request: Request, name: str) -> Tensor | None:
        return request.tensors.get(name)

    def get_output_tensor_by_name(self, response: Response, name: str) -> Tensor:
        return Tensor(name, response.tensors[name])

    def InferenceRequest(
        self,
        model_name: str,
        inputs: Sequence[Tensor],
        requested_output_names: Sequence[str],
        preferred_memory: tuple[int, int],
    ) -> "Call":
        assert preferred_memory[0] == self.TRITONSERVER_MEMORY_CPU
        return Call(
            self, model_name, {t.name(): t.as_numpy() for t in inputs}, requested_output_names
        )


class Call:
    """A request of the Python backend to another model of the server."""

    def __init__(
        self, server: Server, model: str, feeds: dict[str, NDArray[Any]], outputs: Sequence[str]
    ) -> None:
        self.server, self.model, self.feeds, self.outputs = server, model, feeds, outputs

    def exec(self) -> Response:
        folder = self.server.repository / self.model
        self.server.calls.append(self.model)
        if not folder.is_dir():
            return Response(error=TritonError(f"model {self.model} is not loaded"))
        config = self.server.parse(folder / "config.pbtxt")
        for tensor in config.input:
            check_input(tensor, self.feeds)
        session = onnxruntime.InferenceSession(folder / "1" / config.default_model_filename)
        results = session.run(list(self.outputs), self.feeds)
        pairs = zip(self.outputs, results, strict=True)
        return Response([Tensor(name, array) for name, array in pairs])


def check_input(tensor: Any, feeds: dict[str, NDArray[Any]]) -> None:
    """Check an input against the model's config as the server does, and apply its reshape."""
    array = feeds[tensor.name]
    assert len(tensor.dims) == array.ndim
    assert all(want in (-1, size) for want, size in zip(tensor.dims, array.shape, strict=True))
    if tensor.HasField("reshape"):
        feeds[tensor.name] = array.reshape(tuple(tensor.reshape.shape))


@pytest.fixture(scope="session")
def parse() -> Callable[[Path], Any]:
    """Reads a config.pbtxt with Triton's own schema."""
    pytest.importorskip("grpc", reason="needs tritonclient[grpc], of the `dev` extra")
    protobufs = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    def read(path: Path) -> Any:
        return text_format.Parse(path.read_text(encoding="utf-8"), protobufs.ModelConfig())

    return read


@pytest.fixture(scope="module")
def repository(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    options = ["--copy", "--task", "retrieval", "--preferred", "16,8", "--max-batch", "32"]
    assert main(["export-triton", str(nano_bundle), str(folder), *options]) == 0
    return folder


@pytest.fixture
def load(
    monkeypatch: pytest.MonkeyPatch, parse: Callable[[Path], Any]
) -> Callable[[Path], tuple[Any, Server]]:
    """Loads the model `embed` of a repository as the server's Python backend does."""

    def start(repository: Path) -> tuple[Any, Server]:
        server = Server(repository, parse)
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)  # type: ignore[arg-type]
        source = repository / "embed" / "1" / "model.py"
        spec = importlib.util.spec_from_file_location("model_of_triton", source)
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = parse(repository / "embed" / "config.pbtxt")
        parameters = {k: {"string_value": v.string_value} for k, v in config.parameters.items()}
        model = module.TritonPythonModel()
        model.initialize(
            {
                "model_config": json.dumps({"parameters": parameters}),
                "model_repository": str(repository / "embed"),
                "model_version": "1",
            }
        )
        return model, server

    return start


def image(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_configs_are_valid_by_tritons_schema(
    repository: Path, nano_bundle: Path, parse: Callable[[Path], Any]
) -> None:
    configs = {path.parent.name: parse(path) for path in repository.glob("*/config.pbtxt")}
    assert set(configs) == {"embed", "vision", *(f"decoder-{task}" for task in TASKS)}
    for name, config in configs.items():
        assert config.name == name
        assert (repository / name / "1" / config.default_model_filename).is_file()
    embed = configs["embed"]
    assert embed.backend == "python"
    assert embed.max_batch_size == 32
    assert list(embed.dynamic_batching.preferred_batch_size) == [8, 16]
    assert embed.dynamic_batching.max_queue_delay_microseconds == 2000
    assert all(tensor.optional for tensor in embed.input)
    model = open_bundle(nano_bundle).manifest.model
    dims = {tensor.name: list(tensor.dims) for tensor in embed.output}
    assert dims["MULTI_VECTOR"] == [-1, model.projector_dim]


def test_graph_models_have_the_graphs_tensors(
    repository: Path, parse: Callable[[Path], Any]
) -> None:
    for name in ("vision", "decoder-code"):
        config = parse(repository / name / "config.pbtxt")
        assert config.backend == "onnxruntime"
        assert config.max_batch_size == 0
        session = onnxruntime.InferenceSession(
            repository / name / "1" / config.default_model_filename
        )
        for shown, real in (
            (config.input, session.get_inputs()),
            (config.output, session.get_outputs()),
        ):
            assert [tensor.name for tensor in shown] == [value.name for value in real]
            for tensor, value in zip(shown, real, strict=True):
                sizes = [size if isinstance(size, int) else -1 for size in value.shape]
                assert list(tensor.dims) == (sizes or [1])
                assert tensor.HasField("reshape") == (not sizes)


def test_texts_and_images_come_out_as_from_the_embedder(
    repository: Path, nano_bundle: Path, load: Callable[[Path], tuple[Any, Server]]
) -> None:
    model, server = load(repository)
    embedder = Embedder.load(nano_bundle)
    drawn, dim = image(), 64
    responses = model.execute(
        [
            Request(["VECTOR", "NUM_TOKENS"], TEXT=["a query", "another one"]),
            Request(["VECTOR"], TEXT=["def f(): pass"], TASK=["code"], PROMPT=["passage"]),
            Request(["VECTOR", "MULTI_VECTOR"], TEXT=["", "with text"], IMAGE=[drawn, drawn]),
            Request(["VECTOR", "TRUNCATED"], TEXT=["short"], DIMENSIONS=[dim]),
            Request(["MULTI_VECTOR", "NUM_TOKENS"], TEXT=["a", "a longer text of words"]),
        ]
    )
    assert not any(response.has_error() for response in responses)
    first, second, third, fourth, fifth = (response.tensors for response in responses)
    expected = embedder.encode_text(["a query", "another one"], "retrieval")
    np.testing.assert_allclose(first["VECTOR"], expected, atol=1e-6)
    assert first["NUM_TOKENS"].shape == (2, 1)
    expected = embedder.encode_text(["def f(): pass"], "code", prompt_name="passage")
    np.testing.assert_allclose(second["VECTOR"], expected, atol=1e-6)
    mixed = embedder.encode(
        [ImageText((drawn,)), ImageText((drawn,), "with text")],
        "retrieval",
        return_multivector=True,
    )
    assert mixed.single is not None
    assert mixed.multi is not None
    np.testing.assert_allclose(third["VECTOR"], mixed.single, atol=1e-6)
    for row, vectors in zip(third["MULTI_VECTOR"], mixed.multi, strict=True):
        np.testing.assert_allclose(row[: len(vectors)], vectors, atol=1e-5)
        assert not row[len(vectors) :].any()
    expected = embedder.encode_text(["short"], "retrieval", truncate_dim=dim)
    np.testing.assert_allclose(fourth["VECTOR"], expected, atol=1e-6)
    assert fourth["TRUNCATED"].tolist() == [[False]]
    assert "VECTOR" not in fifth
    assert fifth["MULTI_VECTOR"].shape[1] == fifth["NUM_TOKENS"].max()
    assert set(server.calls) == {"vision", *(f"decoder-{task}" for task in TASKS)}


def test_requests_are_joined_into_one_run(
    repository: Path, load: Callable[[Path], tuple[Any, Server]]
) -> None:
    model, server = load(repository)
    model.execute([Request(["VECTOR"], TEXT=["warm up"])])
    server.calls.clear()
    responses = model.execute([Request(["VECTOR"], TEXT=[f"text {i}"]) for i in range(6)])
    assert len(responses) == 6
    assert server.calls == ["decoder-retrieval"]


@pytest.mark.parametrize(
    ("columns", "fragment"),
    [
        ({}, "neither TEXT nor IMAGE"),
        ({"TEXT": ["a"], "TASK": ["cooking"]}, "cooking"),
        ({"TEXT": [b"\xff"]}, "TEXT is not valid UTF-8"),
        ({"IMAGE": [b""]}, "row 0 has an empty IMAGE"),
        ({"IMAGE": [b"no image"]}, "image"),
        ({"TEXT": ["a", "b"], "DIMENSIONS": [64, 128]}, "rows of a request need the same"),
        ({"TEXT": ["a"], "DIMENSIONS": [257]}, "257"),
        ({"TEXT": ["a"], "PROMPT": ["question"]}, "question"),
    ],
)
def test_a_bad_request_fails_alone(
    columns: dict[str, list[object]],
    fragment: str,
    repository: Path,
    load: Callable[[Path], tuple[Any, Server]],
) -> None:
    model, _ = load(repository)
    good = Request(["VECTOR"], TEXT=["fine"])
    bad, fine = model.execute([Request(["VECTOR"], **columns), good])
    assert bad.has_error()
    assert fragment in bad.error().message()
    assert not fine.has_error()
    assert fine.tensors["VECTOR"].shape[0] == 1


def test_a_request_must_name_a_task_if_there_is_no_default(
    nano_bundle: Path, tmp_path: Path, load: Callable[[Path], tuple[Any, Server]]
) -> None:
    options = ["--copy", "--graphs", "embedded"]
    assert main(["export-triton", str(nano_bundle), str(tmp_path / "r"), *options]) == 0
    model, _ = load(tmp_path / "r")
    missing, named = model.execute(
        [Request(["VECTOR"], TEXT=["a"]), Request(["VECTOR"], TEXT=["a"], TASK=["code"])]
    )
    assert "names no TASK" in missing.error().message()
    assert not named.has_error()


def test_a_model_the_server_lacks_is_an_error_of_the_request(
    repository: Path, tmp_path: Path, load: Callable[[Path], tuple[Any, Server]]
) -> None:
    copy = shutil.copytree(repository, tmp_path / "copy")
    shutil.rmtree(copy / "decoder-code")
    model, _ = load(copy)
    (response,) = model.execute([Request(["VECTOR"], TEXT=["a"], TASK=["code"])])
    assert "decoder-code" in response.error().message()


def test_runtime_adapters_run_in_the_python_backend(
    nano_runtime_bundle: Path, tmp_path: Path, load: Callable[[Path], tuple[Any, Server]]
) -> None:
    place = tmp_path / "r"
    command = ["export-triton", str(nano_runtime_bundle), str(place), "--copy"]
    assert main(command) == 2
    assert not place.exists()
    assert main([*command, "--graphs", "embedded", "--task", "code"]) == 0
    assert [path.name for path in place.iterdir()] == ["embed"]
    model, server = load(place)
    (response,) = model.execute([Request(["VECTOR"], TEXT=["a", "b"], TASK=["code", "retrieval"])])
    embedder = Embedder.load(nano_runtime_bundle)
    expected = embedder.encode_text(["a", "b"], ["code", "retrieval"])
    np.testing.assert_allclose(response.tensors["VECTOR"], expected, atol=1e-6)
    assert server.calls == []


def test_files_are_linked(nano_bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    shutil.copytree(nano_bundle, source)
    assert main(["export-triton", str(source), str(tmp_path / "r")]) == 0
    bundle = open_bundle(source)
    for name in bundle.manifest.files:
        assert (tmp_path / "r" / "embed" / "1" / "bundle" / name).samefile(bundle.path(name))
    open_bundle(tmp_path / "r" / "embed" / "1" / "bundle")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--task", "cooking"], "--task is 'cooking'"),
        (["--max-batch", "0"], "--max-batch is 0"),
        (["--preferred", "8,100"], "--preferred is '8,100'"),
        (["--max-delay-us", "-1"], "--max-delay-us is -1"),
        (["--engine", "none"], "has no engine 'none'"),
    ],
)
def test_bad_options_leave_nothing(
    options: list[str],
    fragment: str,
    nano_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export-triton", str(nano_bundle), str(tmp_path / "r"), *options]) == 2
    assert fragment in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_repository_is_replaced_only_if_told_to(nano_bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "r"
    command = ["export-triton", str(nano_bundle), str(place), "--copy"]
    assert main(command) == 0
    (place / "embed" / "1" / "mark").touch()
    assert main(command) == 2
    assert (place / "embed" / "1" / "mark").exists()
    assert main([*command, "--force"]) == 0
    assert not (place / "embed" / "1" / "mark").exists()


def test_other_folders_are_never_replaced(nano_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    command = ["export-triton", str(nano_bundle), str(tmp_path), "--copy", "--force"]
    assert main(command) == 2
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "keep"


def test_the_backend_needs_no_extra(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnx_ir', 'onnxruntime', 'ml_dtypes'): sys.modules[name] = None\n"
        "from trine.export.triton_repository.backend import TritonPythonModel"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_names_are_quoted(tmp_path: Path, parse: Callable[[Path], Any]) -> None:
    model = ServedModel(
        name='quote " and \\ backslash',
        backend="python",
        file="model.py",
        inputs=(TensorConfig(name="x", data_type="TYPE_INT32", dims=()),),
        outputs=(),
        batching=None,
        device="gpu",
        instances=2,
        parameters={"k": "v"},
    )
    (tmp_path / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
    config = parse(tmp_path / "config.pbtxt")
    assert config.name == model.name
    assert (list(config.input[0].dims), list(config.input[0].reshape.shape)) == ([1], [])
    assert config.parameters["k"].string_value == "v"
    assert config.instance_group[0].count == 2
