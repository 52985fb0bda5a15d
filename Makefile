# Each target works on a fresh machine with Python >= 3.11 and make: the first one makes .venv and installs into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(sort $(wildcard protos/modelregistry/v1/*.proto))
# google/api/*.proto, as the googleapis-common-protos package ships it
SITE = $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
PROTOC = $(BIN)/python -m grpc_tools.protoc -Iprotos -I$(SITE)
# The compilers of the Python client, which is for older libraries, too.
OLDER := build/compilers
CLIENT_GEN := clients/python/gen

.PHONY: demo test test-ha test-interop test-pooler test-pythons test-siege check bench bench-growth gen released wheel clean
.DEFAULT_GOAL := test

demo: $(VENV)/installed
	$(BIN)/modelregistry demo

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Needs Go, a JDK of 17 or newer with Maven, and Node.js of 20 or newer.
test-interop: $(VENV)/installed
	$(BIN)/python -m pytest tests/interop

# Needs PgBouncer: apt-get install pgbouncer.
test-pooler: $(VENV)/installed
	$(BIN)/python -m pytest tests/pooler

# The wheel on each supported version of Python that is on the PATH, or that pyenv has.
test-pythons: $(VENV)/installed
	$(BIN)/python -m pytest tests/pythons

# Thousands of connections: one test opens 7,000 files, the others fewer.
test-siege: $(VENV)/installed
	$(BIN)/python -m pytest tests/siege

test-ha: $(VENV)/installed
	$(BIN)/python -m pytest tests/ha

bench: $(VENV)/installed
	$(BIN)/python -m bench --readme
	$(BIN)/python -m bench.http_against_grpc

bench-growth: $(VENV)/installed
	$(BIN)/python -m bench.growth --readme

check: $(VENV)/installed $(OLDER)/installed
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

gen: $(VENV)/installed $(OLDER)/installed
	rm -rf gen $(CLIENT_GEN)
	$(call generate,gen)
	$(call generate_client,$(CLIENT_GEN),gen)

# With each release: what the next ones must not break.
released: $(VENV)/installed
	$(PROTOC) --include_imports --descriptor_set_out=protos/released.binpb $(PROTOS)

# The stubs, with type stubs beside them, and what the stubs leave out: the comments, which /openapi.json quotes.
define generate
	mkdir -p $(1)/modelregistry/v1
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PROTOC) --python_out=$(1) --grpc_python_out=$(1) \
		--mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
		--include_source_info --descriptor_set_out=$(1)/modelregistry/v1/described.binpb $(PROTOS)
	touch $(1)/modelregistry/v1/py.typed
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

# What the image does, step by step: an empty environment, the wheel, and the wheel installed into it.
wheel:
	rm -rf dist build/runtime
	$(PYTHON) -m venv build/runtime
	build/runtime/bin/pip wheel --no-deps --wheel-dir dist .
	build/runtime/bin/pip install "$$(echo dist/*.whl)[s3,otel]"

clean:
	rm -rf $(VENV) build dist

$(OLDER)/installed: clients/python/compilers.txt
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(OLDER) && \
		uv pip install --quiet --python $(OLDER)/bin/python -r $<; \
	else \
		$(PYTHON) -m venv $(OLDER) && $(OLDER)/bin/pip install --quiet --disable-pip-version-check -r $<; \
	fi
	@touch $@

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modelregistry needs Python 3.11 or newer")'
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $@
