"""Damaged, incomplete and newer bundles are refused with all that is wrong in them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.safetensors_file import TensorFile
from trine.runtime.commands.program import main
from trine.runtime.embedder import Embedder
from trine.runtime.engines.select import engine_named, select_engine
from trine.runtime.errors import BundleError, EngineError, InputError, TrineError

IMAGE = np.zeros((56, 56, 3), np.uint8)


@pytest.fixture
def bundle(golden_bundle: Path, tmp_path: Path) -> Path:
    """A copy of a good bundle to damage."""
    return Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("missing", "check the path, or make a bundle with `trine export SOURCE DIR`"),
        ("checkpoint", "run `trine export checkpoint DIR`, then give DIR"),
        ("empty", "make one with `trine export SOURCE DIR`, then give DIR"),
    ],
)
def test_what_is_no_bundle_is_told_how_to_become_one(
    name: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(BundleError, match=re.escape(remedy)) as raised:
        Embedder.load(name)
    assert str(raised.value).startswith(f"{name}: ")
    assert f"SOURCE {name}" not in str(raised.value)


@pytest.fixture
def change(bundle: Path) -> Callable[[Callable[[dict[str, Any]], object]], None]:
    """Changes the manifest as parsed JSON."""

    def apply(damage: Callable[[dict[str, Any]], object]) -> None:
        path = bundle / "manifest.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        damage(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    return apply


def refuse(folder: Path, *fragments: str, error: type[TrineError] = BundleError) -> str:
    """Load a bundle that cannot be used; return the message, which must hold all `fragments`."""
    with pytest.raises(TrineError) as caught:
        Embedder.load(folder)
    message = str(caught.value)
    assert type(caught.value) is error, message
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40  # of a float32's last byte: the top bit of its exponent
    path.write_bytes(content)


def keep_bytes(path: Path, content: bytes) -> None:
    """Replace the beginning of a file, so that its size is still the manifest's."""
    path.write_bytes(content + path.read_bytes()[len(content) :])


def test_missing_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "nowhere: does not exist", "trine export SOURCE")


def test_folder_without_a_manifest(tmp_path: Path) -> None:
    refuse(tmp_path, "holds no manifest.json", "trine export SOURCE")


def test_file_in_place_of_a_folder(bundle: Path) -> None:
    refuse(bundle / "tokenizer.json", "tokenizer.json", "manifest.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"nul"])
def test_manifest_that_is_not_json(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    refuse(bundle, "manifest.json")


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"manifest_version": 3}'])
def test_manifest_of_something_else(bundle: Path, content: str) -> None:
    (bundle / "manifest.json").write_text(content)
    refuse(bundle, "manifest.json", "not a trine-bundle", "trine export")


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(5, "upgrade trine"), (99, "upgrade trine"), (0, "export the bundle again")]
    + [(value, "export the bundle again") for value in ("1", None)],
)
def test_other_format_version(
    bundle: Path, change: Callable[..., None], version: object, remedy: str
) -> None:
    change(lambda manifest: manifest.update(format_version=version))
    refuse(bundle, f"format version {version!r}, this code reads 4", remedy)


def test_newer_version_is_said_before_its_unknown_fields(
    bundle: Path, change: Callable[..., None]
) -> None:
    change(lambda manifest: manifest.update(format_version=5, novelty=True))
    assert "novelty" not in refuse(bundle, "upgrade trine")


@pytest.mark.parametrize("place", ["", "model", "model.decoder", "engines.0", "source"])
def test_unknown_and_missing_fields(bundle: Path, change: Callable[..., None], place: str) -> None:
    def damage(manifest: dict[str, Any]) -> None:
        part: Any = manifest
        for key in place.split(".") if place else []:
            part = part[int(key) if key.isdigit() else key]
        first = next(key for key in part if not key.startswith("format"))
        del part[first]
        part["novelty"] = 1

    change(damage)
    refuse(bundle, "fields missing ['", "fields unknown ['novelty']", "export the bundle again")


@pytest.mark.parametrize(
    ("keys", "value", "fragment"),
    [
        ("model.decoder.hidden_size", "128", "model.decoder.hidden_size: is '128'"),
        ("model.decoder.hidden_size", 128.0, "model.decoder.hidden_size: is 128.0"),
        ("model.decoder.hidden_size", True, "model.decoder.hidden_size: is True"),
        ("model.decoder.rms_norm_eps", None, "model.decoder.rms_norm_eps: is None"),
        ("model.tasks", "code", "model.tasks: is 'code', not a list"),
        ("model.tasks", ["code", 1], "model.tasks[1]: is 1"),
        ("engines", {}, "engines: is {}, not a list"),
        ("engines.0.runner", "abacus", "runner: is 'abacus'; this code knows ['onnxruntime', "),
        ("engines.0.precision", "int3", "precision: is 'int3'; this code knows"),
        ("engines.0.decoders", [], "decoders: is [], not an object"),
        ("engines.0.tolerance", None, "tolerance: is None, not an object"),
        ("files", None, "files: is None, not an object"),
        ("source.revision", 5, "source.revision: is 5"),
    ],
)
def test_field_of_another_type(
    bundle: Path, change: Callable[..., None], keys: str, value: object, fragment: str
) -> None:
    def damage(manifest: dict[str, Any]) -> None:
        *path, last = keys.split(".")
        part: Any = manifest
        for key in path:
            part = part[int(key) if key.isdigit() else key]
        part[last] = value

    change(damage)
    refuse(bundle, "manifest.json", fragment)


def test_all_problems_of_files_are_listed_at_once(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    (bundle / "golden.npz").write_bytes(b"short")
    (bundle / "engines" / "ort-fp32" / "vision.onnx").unlink()
    refuse(
        bundle,
        "3 files are not as written",
        "tokenizer.json is missing",
        "golden.npz has 5 bytes, not ",
        "engines/ort-fp32/vision.onnx is missing",
        "copy the bundle again",
    )


def test_files_that_the_manifest_does_not_list(bundle: Path, change: Callable[..., None]) -> None:
    change(lambda manifest: manifest["files"].pop("heads.safetensors"))
    refuse(bundle, "heads.safetensors is missing from the manifest")


def test_graph_that_the_manifest_does_not_list(bundle: Path, change: Callable[..., None]) -> None:
    """Else a graph could be changed without any hash telling."""
    change(lambda manifest: manifest["engines"][0].update(vision="engines/other.onnx"))
    refuse(bundle, "engines/other.onnx is missing from the manifest")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "engines/../../outside"])
def test_file_outside_the_bundle(bundle: Path, change: Callable[..., None], name: str) -> None:
    (bundle.parent / "outside").write_text("12345")
    entry = {"size": 5, "sha256": "0" * 64}
    change(lambda manifest: manifest["files"].update({name: entry}))
    refuse(bundle, name, "outside the bundle")


def test_bundle_without_engines(bundle: Path, change: Callable[..., None]) -> None:
    change(lambda manifest: manifest.update(engines=[]))
    refuse(bundle, "no engine is listed")


def test_engine_without_decoders(bundle: Path, change: Callable[..., None]) -> None:
    change(lambda manifest: manifest["engines"][0].update(decoders={}))
    refuse(bundle, "engine 'ort-fp32' has no decoders")


def test_unknown_engine(golden_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"no engine 'abacus'; it has \['ort-fp32'\]$"):
        Embedder.load(golden_bundle, engine="abacus")


@pytest.mark.parametrize("engine", ["tensorrt", "ort_cuda", "ort-fp32:tensorrt_rtx"])
def test_a_gpus_engine_without_graphs_for_it(golden_bundle: Path, engine: str) -> None:
    with pytest.raises(BundleError, match="that `trine export --target tensorrt` adds"):
        Embedder.load(golden_bundle, engine=engine)


def test_unknown_tasks_and_threads(golden_bundle: Path) -> None:
    known = r"it has \['retrieval', 'text-matching', 'code'\]"
    with pytest.raises(InputError, match=rf"tasks \['sql'\] are not in the bundle; {known}"):
        Embedder.load(golden_bundle, tasks=["code", "sql"])
    with pytest.raises(InputError, match=rf"tasks \[\] are not in the bundle; {known}"):
        Embedder.load(golden_bundle, tasks=[])
    with pytest.raises(InputError, match=rf"tasks \[\['code'\]\] are not in the bundle; {known}"):
        Embedder.load(golden_bundle, tasks=[["code"]])
    with pytest.raises(InputError, match="threads is 0; give a whole number of at least 1"):
        Embedder.load(golden_bundle, threads=0)
    with pytest.raises(InputError, match=r"threads is 1000000; give at most \d+, for \d+ proc"):
        Embedder.load(golden_bundle, threads=10**6)


@pytest.mark.parametrize("bundle", [None, 5, b"path"], ids=repr)
def test_bundle_that_is_no_path(bundle: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"bundle is {bundle!r}; give the path")):
        Embedder.load(bundle)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("engine", None),
        ("tasks", 3),
        ("threads", "2"),
        ("threads", 1.5),
        ("threads", True),
        ("device", "0"),
    ],
)
def test_option_of_another_type(golden_bundle: Path, option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{option} is {value!r}; "):
        Embedder.load(golden_bundle, **{option: value})


def test_task_given_as_a_word_is_not_taken_for_its_letters(golden_bundle: Path) -> None:
    assert Embedder.load(golden_bundle, tasks="code").tasks == ("code",)


def test_decoder_with_a_flipped_bit_fails_its_self_test(bundle: Path) -> None:
    path = max((bundle / "engines" / "ort-fp32").glob("decoder-*.data"))
    flip_bit(path, 4096 * 3 + 3)
    message = refuse(
        bundle,
        "engine ort-fp32 failed its self-test on text",
        "worst cosine ",
        "(at least 0.999999)",
        "largest difference ",
        "(at most 0.0002)",
        "trine verify",
        error=EngineError,
    )
    assert float(message.split("worst cosine ")[1].split()[0]) < 0.999999
    (problem,) = open_bundle(bundle).check_hashes()
    assert problem.startswith(f"engines/ort-fp32/{path.name}: ")


def test_self_test_can_be_left_out(bundle: Path) -> None:
    path = max((bundle / "engines" / "ort-fp32").glob("decoder-*.data"))
    flip_bit(path, 4096 * 3 + 3)
    assert Embedder.load(bundle, self_test=False).encode_text("a", "code").shape == (128,)


def test_vision_tower_with_a_flipped_bit_fails_at_the_first_image(bundle: Path) -> None:
    flip_bit(bundle / "engines" / "ort-fp32" / "vision.data", 4096 * 3 + 3)
    embedder = Embedder.load(bundle)
    assert np.isfinite(embedder.encode_text("texts work", "code")).all()
    for _ in range(2):  # a failure is not forgotten
        with pytest.raises(EngineError, match="ort-fp32 failed its self-test on image: worst"):
            embedder.encode_image([IMAGE], "code")


def test_golden_vectors_of_another_model(bundle: Path) -> None:
    with np.load(bundle / "golden.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name in arrays:
        if name.startswith("text/"):
            arrays[name] = -arrays[name]
    np.savez(bundle / "golden.npz", **arrays)
    refuse(bundle, "failed its self-test on text: worst cosine -1.0000", error=EngineError)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip file"])
def test_damaged_golden_vectors(bundle: Path, change: Callable[..., None], content: bytes) -> None:
    (bundle / "golden.npz").write_bytes(content)
    change(lambda manifest: manifest["files"]["golden.npz"].update(size=len(content)))
    refuse(bundle, "golden.npz: damaged", "copy the bundle again")


def test_golden_vectors_with_a_damaged_member(bundle: Path) -> None:
    path = bundle / "golden.npz"
    flip_bit(path, path.stat().st_size // 2)
    refuse(bundle, "golden.npz: damaged", "copy the bundle again")


def test_pickled_golden_vectors_are_not_loaded(bundle: Path, change: Callable[..., None]) -> None:
    path = bundle / "golden.npz"
    np.savez(path, texts=np.array([{"a": 1}], object), image=IMAGE)
    change(lambda manifest: manifest["files"]["golden.npz"].update(size=path.stat().st_size))
    refuse(bundle, "golden.npz: damaged")


@pytest.mark.parametrize("name", ["embedding.safetensors", "heads.safetensors"])
def test_damaged_tensors(bundle: Path, name: str) -> None:
    keep_bytes(bundle / name, b"\xff" * 8)
    refuse(bundle, f"{name}: not a whole safetensors file", "copy it again")
    keep_bytes(bundle / name, (64).to_bytes(8, "little") + b"{" * 64)
    refuse(bundle, f"{name}: its header is not JSON", "copy it again")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("embedding.safetensors", "embed_tokens.weight"), ("heads.safetensors", "code.weight")],
)
def test_tensor_under_another_name(bundle: Path, name: str, tensor: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content.replace(tensor.encode(), b"x" * len(tensor), 1))
    refuse(bundle, name, tensor, "export the bundle again")


@pytest.mark.parametrize("name", ["embedding.safetensors", "heads.safetensors"])
def test_tensor_of_another_shape(bundle: Path, name: str) -> None:
    """The bytes still fill the shape; the arithmetic would fail, or be of something else."""
    content = (bundle / name).read_bytes()
    rows, columns = next(
        info.shape
        for info in TensorFile(bundle / name, BundleError).tensors.values()
        if len(info.shape) == 2
    )
    swapped = content.replace(f"[{rows},{columns}]".encode(), f"[{columns},{rows}]".encode())
    assert swapped != content
    (bundle / name).write_bytes(swapped)
    refuse(bundle, name, f"[{columns}, {rows}]", f"[{rows}, {columns}]")


def test_damaged_tokenizer(bundle: Path) -> None:
    keep_bytes(bundle / "tokenizer.json", b"\x00\x00")
    refuse(bundle, "tokenizer.json: not a readable tokenizer", "copy it again")


def test_graph_that_onnxruntime_refuses(bundle: Path) -> None:
    graph = max((bundle / "engines" / "ort-fp32").glob("decoder-*.onnx"))
    keep_bytes(graph, b"\xff" * 40)
    refuse(bundle, f"{graph.name}: ONNX Runtime cannot load it", error=EngineError)


def test_hashes_name_each_changed_file(bundle: Path) -> None:
    assert open_bundle(bundle).check_hashes() == []
    sizes: list[int] = []
    for name in ("tokenizer.json", "parity.json"):
        keep_bytes(bundle / name, b" ")
    problems = open_bundle(bundle).check_hashes(sizes.append)
    assert [problem.split(":")[0] for problem in problems] == ["parity.json", "tokenizer.json"]
    assert sum(sizes) == sum(entry.size for entry in open_bundle(bundle).manifest.files.values())


def test_auto_is_the_first_engine(golden_bundle: Path) -> None:
    opened: Bundle = open_bundle(golden_bundle)
    assert select_engine(opened).entry is opened.manifest.engines[0]
    assert engine_named(opened, "ort-fp32") is opened.manifest.engines[0]


@pytest.mark.parametrize("verb", ["embed", "info", "verify"])
def test_every_command_refuses_a_bad_bundle_in_one_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["--text", "a", "--task", "code"] if verb == "embed" else []
    assert main([verb, str(tmp_path / "nowhere"), *text]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"trine {verb}: ")
    assert "nowhere: does not exist" in captured.err
    assert captured.err.count("\n") == 1
