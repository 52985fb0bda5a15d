# Each target works on a fresh machine with Python >= 3.11 and make: it makes .venv, and installs what it needs and is not
# there yet. uv does it where it is on the PATH.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin
# What is installed: exact versions and the hashes of their files. `make lock` writes them.
LOCKS := tools/locks
INSTALLED := $(VENV)/installed
CHECK := $(INSTALLED)-extras $(INSTALLED)-check
TEST := $(CHECK) $(INSTALLED)-test
# Libraries are compiled when they are first imported, so that is to be kept.
unexport PYTHONDONTWRITEBYTECODE
.NOTPARALLEL:
PROTOS := $(sort $(wildcard protos/modelregistry/v1/*.proto))
# google/api/*.proto, as the googleapis-common-protos package ships it
SITE = $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
PROTOC = $(BIN)/python -m grpc_tools.protoc -Iprotos -I$(SITE)
# The compilers of the Python client, which is for older libraries, too.
OLDER := build/compilers
CLIENT_GEN := clients/python/gen

PARALLEL = $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo test test-e2e test-ha test-interop test-pooler test-packaging test-siege check bench bench-quick bench-growth gen released lock wheel clean
.DEFAULT_GOAL := test

demo: $(INSTALLED)
	@$(BIN)/modelregistry demo

# TESTS=tests/rpc runs a part.
test: $(TEST)
	$(PARALLEL) $(TESTS)

test-e2e: $(TEST)
	$(PARALLEL) tests/e2e

# Needs Go, a JDK of 17 or newer with Maven, and Node.js of 20 or newer.
test-interop: $(TEST) $(INSTALLED)-interop
	$(BIN)/python -m pytest tests/interop

# Needs PgBouncer: apt-get install pgbouncer.
test-pooler: $(TEST)
	$(BIN)/python -m pytest tests/pooler

# What is installed, from PyPI: the image, the Python client, and the wheel on each supported version of Python that is on
# the PATH, or that pyenv has.
test-packaging: $(TEST)
	$(BIN)/python -m pytest tests/packaging

# Thousands of connections: one test opens 7,000 files, the others fewer.
test-siege: $(TEST) $(INSTALLED)-interop
	$(BIN)/python -m pytest tests/siege

test-ha: $(TEST) $(INSTALLED)-ha
	$(BIN)/python -m pytest tests/ha

bench: $(TEST)
	$(BIN)/python -m bench --readme

# What is not committed yet beside the last commit, in two minutes: SINCE=COMMIT puts it beside another one.
bench-quick: $(TEST)
	$(BIN)/python -m bench.quick --since $(or $(SINCE),HEAD)

bench-growth: $(TEST)
	$(BIN)/python -m bench.growth --readme

check: $(CHECK) $(OLDER)/installed
	mkdir -p build
	$(PROTOC) --include_imports --include_source_info --descriptor_set_out=build/protos.binpb $(PROTOS)
	$(BIN)/buf lint build/protos.binpb --config protos/buf.yaml
	$(BIN)/buf breaking build/protos.binpb --against protos/released.binpb --config protos/buf.yaml
	cd protos && ../$(BIN)/buf format --diff --exit-code .
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	rm -rf build/gen build/client-gen
	$(call generate,build/gen)
	$(call generate_client,build/client-gen,build/gen)
	diff -r -x __pycache__ build/gen gen || { echo 'gen/ is stale: run make gen and commit it' >&2; exit 1; }
	diff -r -x __pycache__ build/client-gen $(CLIENT_GEN) || \
		{ echo '$(CLIENT_GEN) is stale: run make gen and commit it' >&2; exit 1; }

gen: $(CHECK) $(OLDER)/installed
	rm -rf gen $(CLIENT_GEN)
	$(call generate,gen)
	PYTHONPATH=gen $(BIN)/python -m tools.service_config protos/modelregistry/v1/service_config.json
	$(call generate_client,$(CLIENT_GEN),gen)

# With each release: what the next ones must not break.
released: $(CHECK)
	$(PROTOC) --include_imports --descriptor_set_out=protos/released.binpb $(PROTOS)

# The stubs, with type stubs beside them; the protos' comments, which the stubs leave out; and the OpenAPI document.
define generate
	mkdir -p $(1)/modelregistry/v1
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PROTOC) --python_out=$(1) --grpc_python_out=$(1) \
		--mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
		--include_source_info --descriptor_set_out=$(1)/modelregistry/v1/described.binpb $(PROTOS)
	touch $(1)/modelregistry/v1/py.typed
	PYTHONPATH=$(1) $(BIN)/python -m tools.openapi > $(1)/modelregistry/v1/openapi.json
endef

# Those of the Python client, and the service config that it sets. Types are for type checkers alone, so they are those
# of $(2).
define generate_client
	mkdir -p $(1)/modelregistry/v1
	$(OLDER)/bin/protoc -Iprotos -I$(SITE) --python_out=$(1) $(PROTOS)
	$(OLDER)/bin/python -m grpc_tools.protoc -Iprotos -I$(SITE) --grpc_python_out=$(1) $(PROTOS)
	cp $(2)/modelregistry/v1/*.pyi $(2)/modelregistry/v1/py.typed protos/modelregistry/v1/service_config.json \
		$(1)/modelregistry/v1
endef

# What the image does, step by step: an environment of what is pinned, the wheel, and the wheel installed into it.
wheel:
	rm -rf dist build/runtime build/wheel
	$(PYTHON) -m venv build/runtime
	build/runtime/bin/pip install --no-deps --require-hashes -r tools/locks/runtime.txt -r tools/locks/extras.txt
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --no-deps --require-hashes -r tools/locks/build.txt
	build/wheel/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist .
	build/runtime/bin/pip install --no-deps dist/*.whl

clean:
	rm -rf $(VENV) build dist

# The service alone, editable; what hatchling needs for that is in build.txt.
$(INSTALLED): $(LOCKS)/runtime.txt $(LOCKS)/build.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modelregistry needs Python 3.11 or newer")'
	@echo 'installing the service into $(VENV)' >&2
	@$(call environment,$(VENV))
	@$(call install,$(VENV)) --require-hashes -r $(LOCKS)/runtime.txt -r $(LOCKS)/build.txt
	@$(call install,$(VENV)) --no-build-isolation -e .
	@touch $@

# What the extras, or a group of pyproject.toml, add to it.
$(INSTALLED)-%: $(LOCKS)/%.txt | $(INSTALLED)
	@echo 'installing $< into $(VENV)' >&2
	@$(call install,$(VENV)) --require-hashes -r $<
	@touch $@

$(OLDER)/installed: $(LOCKS)/compilers.txt
	@$(call environment,$(OLDER))
	@$(call install,$(OLDER)) --require-hashes -r $<
	@touch $@

# An environment; and what installs into it, without asking what else that wants: the locks name all.
environment = $(if $(UV),uv venv --quiet --allow-existing --seed --python $(PYTHON) $(1),$(PYTHON) -m venv $(1))
install = $(if $(UV),uv pip install --quiet --python $(1)/bin/python,$(1)/bin/pip install --quiet \
	--disable-pip-version-check --no-compile) --no-deps

# After a change of what pyproject.toml wants: what is pinned stays as it is, if it can. `make lock UPGRADE=--upgrade` takes
# the newest of all. One resolution of everything comes first, so that all the files agree.
GROUPS := check test ha interop
PINS := $(patsubst %,$(LOCKS)/%.txt,runtime build extras $(GROUPS))
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock'
PINNED = $(COMPILE) --generate-hashes --constraints build/pins.txt
# The packages that these files bring already.
WITHOUT = $$(sed -n 's/^\([^ =]*\)==.*/--no-emit-package \1/p' $(1))
lock: $(INSTALLED)-check
	mkdir -p build $(LOCKS)
	cat $(PINS) >build/pins.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		>build/build.in
	$(COMPILE) $(UPGRADE) pyproject.toml build/build.in --all-extras $(GROUPS:%=--group %) -o build/pins.txt
	$(PINNED) pyproject.toml -o $(LOCKS)/runtime.txt
	$(PINNED) build/build.in -o $(LOCKS)/build.txt
	$(PINNED) pyproject.toml --all-extras $(call WITHOUT,$(LOCKS)/runtime.txt) -o $(LOCKS)/extras.txt
	for group in $(GROUPS); do \
		$(PINNED) pyproject.toml --all-extras --group $$group $(call WITHOUT,$(LOCKS)/runtime.txt $(LOCKS)/extras.txt) \
			-o $(LOCKS)/$$group.txt || exit; \
	done
	$(COMPILE) $(UPGRADE) --generate-hashes clients/python/compilers.txt -o $(LOCKS)/compilers.txt
