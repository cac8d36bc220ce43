# Everything here starts from a shell, make and any Python 3.12 or newer (or uv). `make help` lists the targets.

PY := .venv/bin/python
AZURITE := .cache/azurite/node_modules/.bin/azurite-blob
# Set to say which Python the environment is made from: make test PYTHON=/path/to/python3.13
PYTHON ?=

.PHONY: help demo test unit notebooks check format lab bench picture lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    ingest a day of GNSS observations into a local store; print its log and a diff"
	@echo "make demo DATA=\"FILE.nc ...\"    the same with your own files (netCDF, epoch x sid)"
	@echo "make test    all tests, then all notebooks"
	@echo "make check   lint, format and types"
	@echo "make format  rewrite the code in the common format"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make bench   speed against plain icechunk and netCDF4, as a table"
	@echo "make picture take the picture in the README anew"
	@echo "make lock    resolve the dependencies anew into requirements.lock"
	@echo "make clean   remove the environment and everything that was built"

# The shell reads DATA, so that wildcards, ~ and quotes in it mean what they always mean.
demo: .venv/.ready
	@$(PY) notebooks/demo.py $(DATA)

test: unit notebooks

unit: .venv/.ready $(AZURITE)
	$(PY) -m pytest

notebooks: .venv/.ready
	@tmp=$$(mktemp -d); TMPDIR=$$tmp $(PY) -m pytest --nbval --nbval-current-env \
		--nbval-sanitize-with=notebooks/sanitize.cfg --nbval-cell-timeout=120 notebooks; \
	code=$$?; rm -rf "$$tmp"; exit $$code  # nbval kills its kernels, which then cannot tidy up after themselves

check: .venv/.ready
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: .venv/.ready
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

lab: .venv/.ready
	$(PY) -m jupyter lab --ServerApp.root_dir=notebooks

bench: .venv/.ready
	$(PY) tests/benchmarks/bench.py

picture: .venv/.ready
	$(PY) notebooks/picture.py

lock: .venv/.ready
	$(PY) -m uv pip compile --quiet --upgrade --universal --python-version 3.12 --generate-hashes --no-header \
		--extra lab --group dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Candidates are run, not looked up: pyenv's shims exist for versions that do not answer. uv saves half a minute: the lock
# gives it where the machine does not. Where it cannot work (it knows nothing of pip's settings) pip does the same.
.venv/.ready: export PIP_DISABLE_PIP_VERSION_CHECK := 1
.venv/.ready: pyproject.toml requirements.lock
	@set -e; \
	ok() { "$$@" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }; \
	find_python() { \
		for python in $(PYTHON) python3 python3.13 python3.14 python3.12 python "$$HOME"/.pyenv/versions/3.1[2-9]*/bin/python; do \
			if ok "$$python"; then echo "$$python"; return; fi; \
		done; \
	}; \
	install() { \
		"$$@" install --quiet --require-hashes --requirement requirements.lock && \
		"$$@" install --quiet --no-deps --editable .; \
	}; \
	python=$$(find_python); \
	if ok $(PY); then :; \
	elif [ -n "$$python" ]; then \
		echo "making .venv with $$("$$python" --version)"; "$$python" -m venv --clear .venv; \
	elif uv --version >/dev/null 2>&1; then \
		echo "making .venv with uv"; uv venv --quiet --clear --seed --python '>=3.12' .venv; \
	else \
		echo "icemagic needs Python 3.12 or newer with its venv module, or uv; or say: make PYTHON=/path/to/python3.13" >&2; exit 1; \
	fi; \
	uv="$(PY) -m uv"; \
	if uv --version >/dev/null 2>&1; then uv=uv; else \
		sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^ /p;}' requirements.lock >.venv/uv.txt; \
		$(PY) -m pip install --quiet --require-hashes --requirement .venv/uv.txt || uv=false; \
	fi; \
	echo "installing what requirements.lock says"; \
	install env VIRTUAL_ENV="$$PWD/.venv" $$uv pip || { echo "uv could not: with pip, then"; install $(PY) -m pip; }; \
	touch $@

# Azurite, the emulator of Azure's blob storage. The tests on Azure are skipped without it (and fail in CI).
$(AZURITE):
	@echo "installing Azurite"; npm install --silent --no-save --no-audit --no-fund --prefix .cache/azurite azurite@3.35.0 \
		|| echo "no Azurite: the tests on Azure will be skipped"
