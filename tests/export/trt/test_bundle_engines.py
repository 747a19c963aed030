"""Graphs for TensorRT and the engines built from them, as the manifest records them."""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trine.export.export import export_checkpoint
from trine.export.options import ExportOptions
from trine.kernels.triton.index import read_code, read_index
from trine.runtime.bundle.bundle import Bundle, open_bundle
from trine.runtime.bundle.manifest import EngineEntry
from trine.runtime.commands.program import main
from trine.runtime.engines.gpu.built import built_engine
from trine.runtime.engines.gpu.heads import HEAD_KERNELS
from trine.runtime.engines.gpu.opening import KERNELS_FOLDER
from trine.runtime.engines.select import select_engine
from trine.runtime.errors import BundleError, EngineError

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "checkpoint"
ARGUMENTS = ["--engine", "trt-int8", "--sm", "89", "--buckets", "text=64x4x32,image=256x1"]
needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="the extra tensorrt-rtx is not installed",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with graphs in int8, of one task. Not to be changed."""
    folder = tmp_path_factory.mktemp("trt") / "bundle"
    options = ExportOptions(
        source=str(GOLDEN), bundle=folder, tasks=("retrieval",), tensorrt=("int8",), check=False
    )
    export_checkpoint(options, io.StringIO())
    return folder


@pytest.fixture(scope="module")
def built(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with engines for sm_89. Not to be changed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("the extra tensorrt-rtx is not installed")
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("built") / "bundle"))
    assert main(["build", str(folder), *ARGUMENTS]) == 0
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """The built bundle, to be changed."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


def entry_of(bundle: Bundle) -> EngineEntry:
    return next(entry for entry in bundle.manifest.engines if entry.name == "trt-int8")


def test_the_export_lists_the_graphs_with_their_precision(exported: Path) -> None:
    bundle = open_bundle(exported)
    entry = entry_of(bundle)
    assert (entry.runner, entry.devices, entry.precision) == ("tensorrt", ("cuda",), "int8")
    assert entry.built == ()
    assert set(entry.decoders) == {"retrieval"}
    roles = entry.precision_map.decoder.linears
    assert {linear.weight for linear in roles.values()} <= {"int8", "bf16"}
    assert "int8" in {linear.weight for linear in roles.values()}
    assert set(entry.precision_map.vision.linears) >= {"patch_embed", "attn.qkv"}
    assert "mlp.gate" not in entry.precision_map.vision.linears
    assert "adapter deltas" not in entry.precision_map.float32
    # The engine of the processor stays the one that is taken by default.
    assert select_engine(bundle).entry.name == "ort-fp32"


def test_built_engines_are_listed_with_sizes_and_hashes(built: Path) -> None:
    bundle = open_bundle(built)
    entry = entry_of(bundle)
    assert {made.graph for made in entry.built} == {entry.vision, *entry.decoders.values()}
    for made in entry.built:
        assert (made.builder, made.sms) == ("tensorrt_rtx", (89,))
        assert made.path in bundle.manifest.files
        assert len(made.key) == 64
    decoder = next(made for made in entry.built if "tokens" in made.profiles[0])
    assert decoder.profiles[0]["tokens"].most == 64
    assert decoder.profiles[0]["length"].most == 32
    assert bundle.check_hashes() == []


def test_engines_that_are_there_are_not_built_again(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / "manifest.json").read_bytes()
    assert main(["build", str(copy), *ARGUMENTS]) == 0
    assert "was built before" in capsys.readouterr().err
    assert (copy / "manifest.json").read_bytes() == before


@pytest.mark.reference
def test_kernels_of_the_heads_are_compiled_into_the_bundle(copy: Path) -> None:
    """The whole command with Triton's compiler, in a process of its own: this one's interprets."""
    program = "import sys; from trine.runtime.commands.program import main; sys.exit(main())"
    for sm in ("89", "86"):
        arguments = [*ARGUMENTS[:3], sm, *ARGUMENTS[4:], "--kernels"]
        command = [sys.executable, "-c", program, "build", str(copy), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        bundle = open_bundle(copy)
        assert bundle.check_hashes() == []
        kernels = read_index(copy / KERNELS_FOLDER).kernels
        assert {(kernel.name, kernel.sm) for kernel in kernels} == {
            (name, int(sm)) for name in HEAD_KERNELS
        }
        for kernel in kernels:
            code = read_code(copy / KERNELS_FOLDER, kernel.cubin, kernel.cubin_sha256)
            assert code[:4] == b"\x7fELF"
            assert kernel.spill_bytes == 0
        # Those of the processor before are gone, and nothing is there that the manifest lacks.
        there = {f"{KERNELS_FOLDER}/{path.name}" for path in (copy / KERNELS_FOLDER).iterdir()}
        assert there == {n for n in bundle.manifest.files if n.startswith(f"{KERNELS_FOLDER}/")}


@pytest.mark.slow
def test_other_buckets_replace_engines_and_other_processors_join_them(copy: Path) -> None:
    old = {made.path for made in entry_of(open_bundle(copy)).built}
    other = [*ARGUMENTS[:-1], "text=32x2x16,image=128x1"]
    assert main(["build", str(copy), *other]) == 0
    entry = entry_of(open_bundle(copy))
    assert len(entry.built) == 2
    assert not old & {made.path for made in entry.built}
    assert not any((copy / path).exists() for path in old)
    assert main(["build", str(copy), *[*other[:3], "86", *other[4:]]]) == 0
    assert (
        sorted(made.sms for made in entry_of(open_bundle(copy)).built) == [(86,)] * 2 + [(89,)] * 2
    )
    assert open_bundle(copy).check_hashes() == []


def test_a_changed_engine_is_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / entry_of(open_bundle(copy)).built[0].path
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert main(["verify", str(copy)]) == 1
    assert f"{path.name}: its SHA-256 is not the manifest's" in capsys.readouterr().out
    path.write_bytes(b"short")
    with pytest.raises(BundleError, match=f"{path.name} has 5 bytes"):
        open_bundle(copy)


def test_info_and_verify_show_them(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(built)]) == 0
    out = capsys.readouterr().out
    version = entry_of(open_bundle(built)).built[0].version
    assert f"tensorrt_rtx {version}" in out
    assert "text=64x4x32" in out
    assert "sm_89" in out
    assert main(["verify", str(built)]) == 0
    out = capsys.readouterr().out
    assert "engine trt-int8: not run here: there is no NVIDIA driver" in out
    assert out.endswith("passed\n")


@pytest.mark.parametrize(
    ("version", "sm", "reason"),
    [
        ("same", 120, "was built for sm_89, and this GPU is sm_120"),
        ("0.1", 89, "and here is 0.1, which loads its own engines only"),
    ],
)
def test_an_engine_of_another_processor_or_version_is_refused_with_the_command(
    built: Path, version: str, sm: int, reason: str
) -> None:
    bundle = open_bundle(built)
    entry = entry_of(bundle)
    have = entry.built[0].version if version == "same" else version
    with pytest.raises(EngineError, match=reason) as refusal:
        built_engine(bundle, entry, entry.vision, "tensorrt_rtx", have, sm)
    command = f"trine build {built} --engine trt-int8 --builder tensorrt-rtx --sm {sm}"
    assert str(refusal.value).endswith(command)
    found = built_engine(bundle, entry, entry.vision, "tensorrt_rtx", entry.built[0].version, 89)
    assert found.graph == entry.vision


def test_an_engine_that_was_never_built(exported: Path) -> None:
    bundle = open_bundle(exported)
    entry = entry_of(bundle)
    with pytest.raises(EngineError, match="nothing was built of its graphs with tensorrt; build"):
        built_engine(bundle, entry, entry.vision, "tensorrt", "11.4.0", 89)


@pytest.mark.slow
@needs_builder
def test_a_failed_build_leaves_the_bundle_as_it_was(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    before = (folder / "manifest.json").read_bytes()
    assert main(["build", str(folder), *ARGUMENTS[:3], "86", "--buckets", "image=256x1"]) == 2
    assert "no bucket for a decoder" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before
    assert json.loads(before)["engines"][1]["built"] == []
    assert open_bundle(folder).check_hashes() == []


def test_the_program_says_which_graphs_are_missing(
    golden_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(golden_bundle), "--engine", "ort-fp32"]) == 2
    assert "has no graphs for TensorRT called 'ort-fp32'; it has []" in capsys.readouterr().err
