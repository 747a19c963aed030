# make demo | test | test-processors | test-sanitizers | test-reference | test-clients | test-lowest
# make test-libraries | wheels | test-wheels | types | format | clean
# Everything is installed into .venv; the stamp files in it say what is there already.

PYTHON ?= python3
# The version the reference numbers were made with. Another build of it: TORCH=torch==2.13.0+cpu
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
# numpy's and PyTorch's thread pools spin on the cores ONNX Runtime needs; with one thread each the
# tests take a fraction of the time on a small machine.
TEST_ENV ?= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# A process a core. A file's tests stay in one process, because they share its bundles.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadfile

BIN := .venv/bin
# With the system's certificates, as pip: a company's registry has its own.
UV := UV_SYSTEM_CERTS=1 $(BIN)/uv
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
SOURCES := $(shell find export runtime kernels -type f ! -name '*.pyc' ! -name '*.so')
NATIVE := setup.py $(wildcard kernels/cpu/native/*/*)

.PHONY: demo test test-processors test-sanitizers test-reference test-clients test-lowest
.PHONY: test-libraries wheels test-wheels types format clean

demo: .venv/stamp-demo
	$(BIN)/trine demo build/demo

test: .venv/stamp-test types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=build/ns $(BIN)/lint-imports
	$(TEST_ENV) $(BIN)/pytest -m "not slow and not reference and not gpu and not sanitizers" --ignore tests/clients $(PARALLEL) $(PYTEST_ARGS)

# What runs on the kernels, once for every instruction set that this processor has.
test-processors: .venv/stamp-test
	@for level in $$($(BIN)/python -c 'from trine.kernels.cpu.library import cpu_levels; print(*(l.name for l in cpu_levels() if l.problem is None))'); do \
	  echo "TRINE_CPU=$$level"; \
	  TRINE_CPU=$$level $(TEST_ENV) $(BIN)/pytest -q -m "not slow and not reference and not gpu" \
	    tests/kernels/test_without_native.py tests/kernels/test_maxsim.py tests/kernels/test_resize.py \
	    tests/kernels/test_patchify.py tests/runtime/commands/tune tests/runtime/engines/native \
	    tests/runtime/engines/test_select.py \
	    tests/runtime/inference/test_self_test.py tests/runtime/test_published_vectors.py || exit 1; \
	done

# The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, their pool under ThreadSanitizer.
test-sanitizers: .venv/stamp-test
	$(TEST_ENV) $(BIN)/pytest -m sanitizers tests/kernels/cpu/test_build.py $(PYTEST_ARGS)

test-reference: .venv/stamp-reference
	$(TEST_ENV) $(BIN)/pytest -m "(slow or reference) and not gpu" --ignore tests/clients $(PYTEST_ARGS)

# Other projects' clients against the server, in an environment of their own; npm for those of Node.
CLIENTS := build/clients
test-clients: $(CLIENTS)/stamp
	NODE_PATH=$(CLIENTS)/node_modules $(TEST_ENV) $(CLIENTS)/venv/bin/python -m pytest -m clients -W default tests/clients $(PYTEST_ARGS)

$(CLIENTS)/stamp: tests/clients/requirements.txt pyproject.toml | .venv/stamp-python
	@$(PIP) uv && $(PYTHON) -m venv $(CLIENTS)/venv
	@$(UV) pip install --quiet --python $(CLIENTS)/venv/bin/python -r tests/clients/requirements.txt --editable '.[cpu,export,server]'
	@if command -v npm >/dev/null; then npm install --silent --prefix $(CLIENTS) openai ai @ai-sdk/openai-compatible jina-ai-provider; fi
	@touch $@

# Libraries that load a bundle themselves, in an environment of their own: they need other versions
# of transformers than the published code does.
LIBRARIES := build/libraries
test-libraries: $(LIBRARIES)/stamp
	$(TEST_ENV) $(LIBRARIES)/bin/python -m pytest -W default tests/runtime/integrations $(PYTEST_ARGS)

$(LIBRARIES)/stamp: pyproject.toml setup.py $(NATIVE) | .venv/stamp-python
	@$(PYTHON) -m venv $(LIBRARIES)
	@$(LIBRARIES)/bin/python -m pip --disable-pip-version-check install --quiet '$(TORCH)' --editable '.[cpu,export,sentence-transformers,langchain,llama-index,haystack]' 'pytest>=8' 'hypothesis>=6.100' 'safetensors>=0.4.5'
	@touch $@

# The lowest version of every declared dependency that installs on a machine without a GPU, in an
# environment of its own. The tests are those that go through the most packages in the least time:
# an export, its self-test, and every format of input and output.
LOWEST := build/lowest
LOWEST_TESTS := tests/export/checkpoint/test_end_tokens.py tests/runtime/inference/test_self_test.py \
  tests/runtime/commands/test_embed.py tests/runtime/commands/test_embed_inputs.py
test-lowest: $(LOWEST)/stamp
	$(TEST_ENV) $(LOWEST)/bin/python -m pytest -m "not slow" $(LOWEST_TESTS) $(PYTEST_ARGS)

$(LOWEST)/stamp: pyproject.toml setup.py $(NATIVE) | .venv/stamp-python
	@$(PIP) uv && $(UV) venv --quiet --clear --no-python-downloads --python $(BIN)/python $(LOWEST)
	@$(UV) pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[cpu,export,pdf,heic,parquet,server,telemetry]'
	@$(UV) pip install --quiet --python $(LOWEST)/bin/python 'pytest>=8' 'hypothesis>=6.100' 'safetensors>=0.4.5' 'httpx>=0.27'
	@touch $@

# The sdist and a wheel for each platform, in dist. Their tools are in an environment of their own.
WHEELS := build/wheels
wheels: $(WHEELS)/stamp
	@rm -rf dist && $(WHEELS)/tools/bin/python .ci/build_wheels.py --out dist

$(WHEELS)/stamp: pyproject.toml | .venv/stamp-python
	@$(PYTHON) -m venv $(WHEELS)/tools
	@$(WHEELS)/tools/bin/python -m pip --disable-pip-version-check install --quiet 'build>=1.2' 'ziglang>=0.15' 'auditwheel>=6.1'
	@touch $@

# The wheels as they are, then the quick tests of kernels and vectors from an installed one, in a fresh
# environment without a compiler.
WHEEL_TESTS := tests/kernels/cpu/test_kernels.py tests/kernels/cpu/test_library.py \
  tests/kernels/test_maxsim.py tests/kernels/test_resize.py tests/kernels/test_patchify.py \
  tests/runtime/test_published_vectors.py tests/runtime/inference/test_self_test.py
test-wheels: wheels .venv/stamp-test
	TRINE_WHEELS=dist $(TEST_ENV) $(BIN)/pytest tests/test_wheels.py $(PYTEST_ARGS)
	@rm -rf $(WHEELS)/fresh && $(PYTHON) -m venv $(WHEELS)/fresh
	@$(WHEELS)/fresh/bin/python -m pip --disable-pip-version-check install --quiet \
	  "trine[cpu,export] @ file://$$(ls $(CURDIR)/dist/*_$$(uname -m).whl)" 'pytest>=8' 'hypothesis>=6.100' 'safetensors>=0.4.5'
	PATH=$(CURDIR)/$(WHEELS)/fresh/bin $(TEST_ENV) $(WHEELS)/fresh/bin/python -m pytest -m "not slow and not reference" $(WHEEL_TESTS) $(PYTEST_ARGS)

# Type checkers and import-linter cannot follow an editable install's import hook; these links are the same tree.
types:
	@mkdir -p build/ns/trine
	@for part in export runtime kernels; do ln -sfn ../../../$$part build/ns/trine/$$part; done
	@for file in __init__.py __main__.py py.typed; do ln -sfn ../../../runtime/_root/$$file build/ns/trine/$$file; done

format: .venv/stamp-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf trine.egg-info

.venv/stamp-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but '$(PYTHON)' is missing or older:" \
	    "name another one, as in 'make PYTHON=python3.12 ...'" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "'$(PYTHON) -m venv .venv' failed; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@touch $@

# What a user gets: the built wheel. An editable install that `make test` left is as good, and is kept.
# build/lib is setuptools' copy of the sources; files deleted since would still be packed from it.
.venv/stamp-demo: pyproject.toml setup.py $(SOURCES) | .venv/stamp-python
	@if [ .venv/stamp-test -nt pyproject.toml ]; then :; else \
	  echo "installing trine into .venv"; \
	  rm -rf build/lib build/bdist.* && $(PIP) '.[cpu,export,pdf,parquet]' \
	    && rm -f .venv/stamp-test .venv/stamp-reference; fi
	@touch $@

.venv/stamp-test: pyproject.toml setup.py $(NATIVE) | .venv/stamp-python
	@echo "installing trine and the developer tools into .venv"
	@$(PIP) --editable '.[cpu,export,dev,pdf,parquet]'
	@touch $@

.venv/stamp-reference: .venv/stamp-test
	@echo "installing $(TORCH) and the published code's packages into .venv, onnxruntime-gpu into build"
	@$(PIP) '$(TORCH)' --editable '.[reference]'
	@$(PIP) --no-deps --upgrade --target build/onnxruntime-gpu 'onnxruntime-gpu>=1.31'
	@touch $@
