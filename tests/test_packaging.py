"""The package ships what it should, and importing it costs little."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import trine
import trine.export
import trine.kernels
import trine.runtime

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"export": trine.export, "kernels": trine.kernels, "runtime": trine.runtime}
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAX_LINES = {"export": 400, "runtime": 400, "kernels": 500, "tests": 500}
#: Before the first statement of a test's subprocess: refuses imports of some packages.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""
#: Modules whose whole purpose is a library of an extra: the server, and the kernels' sources; and
#: the compiled kernels, a library that is no Python module.
NEED_AN_EXTRA = (
    *("trine.runtime.serving.", "trine.kernels.triton.", "trine.export.trt.build_worker"),
    "trine.kernels.cpu._native",
    "trine.runtime.integrations.",
)
IMPORT_ALL = """
import importlib, pkgutil
count = 0
for name in PACKAGES:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.startswith(NEED_AN_EXTRA):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def python(code: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter outside the project's folder."""
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output(code: str, cwd: Path) -> str:
    done = python(code, cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    pytest.importorskip("build", reason="needs the `dev` extra")
    source = tmp_path_factory.mktemp("source") / "trine"
    left_out = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "data", "results"
    )
    shutil.copytree(ROOT, source, ignore=left_out)
    found = {d.name: d.version for d in importlib.metadata.distributions(name="setuptools")}
    # An older setuptools cannot read pyproject.toml; then the builder fetches its own.
    has_own = int(found.get("setuptools", "0").split(".")[0]) >= 77 and importlib.util.find_spec(
        "setuptools_scm"
    )
    isolation = ["--no-isolation"] if has_own else []
    target = source.parent / "dist"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "build", *isolation, "--outdir", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return target


@pytest.mark.slow
def test_wheel_holds_the_packages_and_their_data_only(built: Path) -> None:
    (path,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    version = path.stem.split("-")[1]
    assert path.stem.split("-")[2:4] == ["py3", "none"]
    assert {name.split("/")[0] for name in names} == {"trine", f"trine-{version}.dist-info"}
    sources = {
        f"trine/{path.relative_to(ROOT).as_posix()}"
        for path in MODULES
        if "_root" not in path.parts
    }
    assert {name for name in names if name.endswith(".py")} == sources | {
        "trine/__init__.py",
        "trine/__main__.py",
    }
    data = {
        f"trine/{path.relative_to(ROOT).as_posix()}"
        for folder in ("checkpoint", "demo")
        for path in (ROOT / "export" / "nano" / folder).rglob("*")
        if path.is_file()
    }
    assert len(data) > 20
    assert data <= names
    assert {"trine/py.typed", "trine/runtime/py.typed"} <= names
    assert not [name for name in names if "tests/" in name or "/test_" in name]
    assert "trine/export/nano/eval.json" not in names
    # Built from the sdist, so that it has every file that the kernels are compiled from.
    kernels = [name for name in names if name.startswith("trine/kernels/cpu/_native")]
    assert len(kernels) == (1 if shutil.which("g++") else 0)
    assert not [name for name in names if name.endswith((".cpp", ".h"))]


@pytest.mark.slow
def test_an_install_without_a_compiler_says_what_is_missing_and_goes_on(tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns(".*", "build", "*.so", "*.egg-info", "__pycache__", "tests")
    source = shutil.copytree(ROOT, tmp_path / "trine", ignore=left_out)
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=source,
        env={**os.environ, "CC": "no-such-compiler", "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("install a C++ compiler") == 1
    assert "no-such-compiler" in done.stderr
    assert not list(source.rglob("_native*.so"))


@pytest.mark.slow
def test_wheel_states_its_dependencies(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith("/METADATA"))
        metadata = wheel.read(name).decode()
        scripts = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    base = [line.split()[1] for line in required if "extra ==" not in line]
    assert sorted(name.split(">")[0] for name in base) == ["numpy", "pillow", "tokenizers"]
    assert "trine = trine.runtime.commands.start:main" in scripts


@pytest.mark.slow
def test_sdist_holds_what_a_build_needs(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    sources = {path.relative_to(ROOT).as_posix() for path in MODULES}
    assert sources | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_listed_packages_are_those_there_are() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in MODULES
        if path.name == "__init__.py"
    }
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert listed == {"trine"} | {f"trine.{name}" for name in folders - {"runtime._root"}}
    assert {path.parent for path in MODULES} == {
        path.parent for path in MODULES if path.name == "__init__.py"
    }


@pytest.mark.parametrize(
    ("packages", "blocked"),
    [
        (
            ["trine", "trine.runtime", "trine.kernels"],
            "torch transformers peft safetensors onnx onnx_ir ml_dtypes huggingface_hub "
            "onnxruntime tensorrt pypdfium2 pyarrow PIL tokenizers starlette uvicorn triton cuda",
        ),
        (
            ["trine.export"],
            "torch transformers peft safetensors onnxruntime huggingface_hub pypdfium2 pyarrow",
        ),
    ],
    ids=["runtime", "export"],
)
def test_every_module_is_imported_without(
    packages: list[str], blocked: str, tmp_path: Path
) -> None:
    setting = f"BLOCKED = {blocked.split()}\nPACKAGES = {packages}\n"
    setting += f"NEED_AN_EXTRA = {NEED_AN_EXTRA}\n"
    assert int(output(setting + BLOCKER + IMPORT_ALL, tmp_path)) > 10


def test_the_runtime_reads_no_library_until_it_is_used(tmp_path: Path) -> None:
    code = "import json, sys, trine, trine.runtime; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(output(code, tmp_path))}
    third_party = {"numpy", "tokenizers", "PIL", "onnxruntime", "onnx_ir", "torch"}
    assert not third_party & loaded


def test_an_embedder_needs_no_heavy_library(golden_bundle: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom trine import Embedder\n"
        f"embedder = Embedder.load({str(golden_bundle)!r}, threads=1)\n"
        "assert embedder.encode_text('a', 'code').shape == (128,)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = {name.split(".")[0] for name in json.loads(output(code, tmp_path))}
    assert "onnxruntime" in loaded
    assert not {"torch", "transformers", "onnx", "onnx_ir", "huggingface_hub", "PIL"} & loaded


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (["--help"], 0, ""),
        (["export", "--help"], 0, ""),
        (["export", "nano", "bundle"], 2, "pip install 'trine[export]'"),
        (["embed", "BUNDLE", "--text", "a", "--task", "code"], 2, "pip install 'trine[cpu]'"),
        (["info", "BUNDLE"], 0, ""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_program_without_extras_names_the_one_to_install(
    arguments: list[str], code: int, fragment: str, golden_bundle: Path, tmp_path: Path
) -> None:
    arguments = [str(golden_bundle) if word == "BUNDLE" else word for word in arguments]
    blocked = "BLOCKED = ['onnx', 'onnx_ir', 'onnxruntime', 'ml_dtypes', 'huggingface_hub']\n"
    program = f"from trine.runtime.commands.program import main\nsys.exit(main({arguments}))"
    done = python(blocked + BLOCKER + program, tmp_path)
    assert done.returncode == code, done.stderr
    assert fragment in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_program_is_run_as_a_module_as_well(golden_bundle: Path, tmp_path: Path) -> None:
    """`python -m trine` works where scripts are not on the path; its help names the program."""
    called = [
        subprocess.run(
            [sys.executable, "-m", "trine", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for words in (["info", str(golden_bundle)], ["embed", "--help"], ["info", "missing"])
    ]
    assert [done.returncode for done in called] == [0, 0, 2]
    assert "engine ort-fp32" in called[0].stdout
    assert called[1].stdout.startswith("usage: trine embed ")
    assert called[2].stderr.startswith("trine info: missing: ")


def best_of(count: int, code: str, cwd: Path) -> list[float]:
    """Return the smallest of each number that `code` prints, of so many fresh interpreters."""
    runs = [[float(word) for word in output(code, cwd).split()] for _ in range(count)]
    return [min(numbers) for numbers in zip(*runs, strict=True)]


def test_importing_the_runtime_is_quick(tmp_path: Path) -> None:
    code = (
        "import time; start = time.perf_counter(); import trine.runtime\n"
        "bare = time.perf_counter(); from trine.runtime import Embedder\n"
        "print(bare - start, time.perf_counter() - start)"
    )
    bare, whole = best_of(5, code, tmp_path)
    print(f"import trine.runtime: {bare * 1e3:.0f} ms; with Embedder: {whole * 1e3:.0f} ms")
    assert bare < 0.15


def test_loading_a_small_bundle_is_quick(nano_bundle: Path, tmp_path: Path) -> None:
    code = (
        # Processor time: other tests have the other cores, and this one's at times.
        "import time; start = time.process_time(); from trine import Embedder\n"
        f"ready = time.process_time(); Embedder.load({str(nano_bundle)!r}, threads=1)\n"
        "print(time.process_time() - ready, time.process_time() - start)"
    )
    load, whole = best_of(5, code, tmp_path)
    print(f"Embedder.load of nano: {load:.2f} s; with imports: {whole:.2f} s")
    assert load < 0.5


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_folders_are_not_importable_by_their_bare_names(name: str, tmp_path: Path) -> None:
    """`kernels` on the package index, for one, is another project."""
    assert importlib.util.find_spec(name) is None
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert output(code, tmp_path).strip() == "None"


def test_public_names() -> None:
    assert trine.__all__ == ["Embedder", "Embedding", "Embeddings", "ImageText", "StreamItem"]
    assert trine.runtime.__all__ == [
        "BundleError",
        "CheckpointError",
        "DependencyError",
        "Embedder",
        "Embedding",
        "Embeddings",
        "EngineError",
        "ImageText",
        "InputError",
        "MemoryLimitError",
        "StreamItem",
        "TopK",
        "TrineError",
        "cosine_similarity",
        "maxsim",
        "maxsim_top_k",
    ]
    for module in (trine, trine.runtime):
        for name in module.__all__:
            assert getattr(module, name).__name__ == name
        with pytest.raises(AttributeError, match="has no attribute 'torch'"):
            _ = module.torch
    assert trine.Embedder is trine.runtime.Embedder


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_says_what_it_offers(path: Path) -> None:
    """`__all__` names what is there, and a docstring says what it is for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    lists = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    defined = {
        *(
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ),
        *(
            name.strip()
            for n in tree.body
            if isinstance(n, ast.Assign)
            for name in ast.unparse(n.targets[0]).strip("()").split(",")
        ),
        *(ast.unparse(n.target) for n in tree.body if isinstance(n, ast.AnnAssign)),
        *(a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names),
    }
    if path.name != "__init__.py":
        assert len(lists) == 1
        assert set(lists[0]) <= defined
        assert len(set(lists[0])) == len(lists[0])


def test_no_file_is_too_long() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in MAX_LINES
        for path in (ROOT / folder).rglob("*.py")
    }
    too_long = {name: n for name, n in lengths.items() if n > MAX_LINES[name.split("/")[0]]}
    assert not too_long


def test_torch_is_imported_for_the_comparison_and_inside_its_libraries_only() -> None:
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.split(".")[0] for name in names} & {"torch", "transformers", "peft"}:
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {
        "export/reference/torch_reference.py",
        "runtime/integrations/sentence_transformers.py",
    }


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with the package as links: tools that read sources miss an editable install's."""
    (tmp_path / "trine").mkdir()
    for name in PACKAGES:
        (tmp_path / "trine" / name).symlink_to(ROOT / name)
    for name in ("__init__.py", "__main__.py", "py.typed"):
        (tmp_path / "trine" / name).symlink_to(ROOT / "runtime" / "_root" / name)
    return tmp_path


def test_import_rules_hold(linked: Path) -> None:
    pytest.importorskip("importlinter", reason="needs the `dev` extra")
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(linked)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in done.stdout


def test_the_public_types_are_what_callers_see(linked: Path) -> None:
    """`typed_api.py` is checked, never run."""
    pytest.importorskip("mypy", reason="needs the `dev` extra")
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "mypy", "--config-file", ROOT / "pyproject.toml"),
            *("--cache-dir", ROOT / "build" / "mypy_typed_api"),
            ROOT / "tests" / "typed_api.py",
        ],
        cwd=linked,
        env={**os.environ, "MYPYPATH": str(linked)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_line_of_a_module_says_what_it_does() -> None:
    """In plain order, as a sentence or a noun; never as half a question."""
    questions = {"What", "How", "Which", "Whether", "Why", "Who", "Where", "When"}
    asking = []
    for path in [*MODULES, *(ROOT / "benchmarks").rglob("*.py")]:
        words = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "What").split()
        if words[0] in questions:
            asking.append(path.relative_to(ROOT).as_posix())
    assert asking == []


def test_paths_of_tests_that_the_makefile_names_are_there() -> None:
    named = re.findall(r"\btests/[\w/.]+", (ROOT / "Makefile").read_text("utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
