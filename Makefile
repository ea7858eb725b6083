# Everything a newcomer needs. PYTHON chooses the interpreter (3.11 to 3.13): make test PYTHON=python3.12
PYTHON ?= python3.11
VENV ?= .venv
OUT ?= runs/quickstart
INSTALLED := $(VENV)/installed-with-$(notdir $(PYTHON))
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test venv lint types parity tpu constraints clean

quickstart: $(INSTALLED)
	@$(VENV)/bin/ringworld quickstart --out $(OUT)

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) --require-hashes -r constraints.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

lint: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(INSTALLED)
	$(VENV)/bin/pyright

parity: $(INSTALLED)
	$(PIP) --no-deps torch==2.13.0
	$(PIP) --require-hashes -r constraints-parity.txt
	$(VENV)/bin/python -m pytest tests/parity

# Compiles for TPU chips that need not be there, in some minutes.
tpu: $(INSTALLED)
	$(PIP) --require-hashes -r constraints-tpu.txt
	$(VENV)/bin/python -m pytest tests/tpu

# Needs uv. Writes every pinned version with the hashes of its files, for Python 3.11 to 3.13, and no address.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links --quiet --extra build --extra test --extra lint
constraints:
	$(COMPILE) --output-file constraints.txt
	$(COMPILE) --extra parity --constraints constraints.txt --output-file constraints-parity.txt
	$(COMPILE) --extra tpu --constraints constraints.txt --output-file constraints-tpu.txt

clean:
	rm -rf $(VENV) runs
