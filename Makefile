# Every target sets up what it needs in .venv, so each works as the first command after a clone.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
PY := $(BIN)/python.exe
else
BIN := $(VENV)/bin
PY := $(BIN)/python
endif
PIP := $(PY) -m pip --disable-pip-version-check
PROMPT := a big yellow star to the left of a small red circle on a blue background

.PHONY: demo demo-eval test live workflows gallery nightly bench lint clean

demo: $(VENV)/.runtime
	$(BIN)/sensenova generate --model demo --prompt "$(PROMPT)" --output outputs/demo.png
	@echo "outputs/demo.png: $(PROMPT), drawn by the built-in demo model"

# What the demo model can do, on scenes that it was not trained on; the figures of its model card.
demo-eval: $(VENV)/.runtime
	PYTHONPATH=. $(PY) -m tools.demo.evaluate sensenova_core/demo --pictures build/demo-eval

# Of two processes one begins with what needs a running ComfyUI, the other with the files after it (tests/conftest.py).
# Each computes with one thread, for torch's own would wait for those of the other.
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not long" --numprocesses 2 --dist loadgroup --no-loadscope-reorder

live: $(VENV)/.test
	$(PY) -m pytest -q tests/live -rs
	$(PY) -m pytest -q -m long --ignore tests/live tests

# What follows from workflows/api: what the editor opens, thumbnails, and the nodes in subgraphs. Needs ComfyUI and Chromium.
workflows: $(VENV)/.test
	PYTHONPATH=. $(PY) tools/workflows/export.py workflows/api/*.json
	PYTHONPATH=. $(PY) -m tools.workflows.thumbnails workflows/api/*.json
	PYTHONPATH=. $(PY) -m tools.workflows.blueprints

# The pictures of docs/gallery.md, each to be looked at. Needs the same.
gallery: $(VENV)/.test
	PYTHONPATH=. $(PY) -m tools.workflows.gallery

# What takes too long for every change: 100,000 damaged files.
nightly: $(VENV)/.test
	OMP_NUM_THREADS=1 PYTHONPATH=. $(PY) -m tests.support.mutations --cases 100000

bench: $(VENV)/.runtime
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable ".[bench]"
	$(PY) benchmarks/text_to_image.py
	PYTHONPATH=. $(PY) benchmarks/document.py
	PYTHONPATH=. $(PY) benchmarks/experts.py --sizes 16x8 64x24 256x96
	PYTHONPATH=. $(PY) benchmarks/lora.py
	PYTHONPATH=. $(PY) benchmarks/compiled.py --rounds 3
	PYTHONPATH=. $(PY) benchmarks/tokens.py --rounds 3
	$(PY) benchmarks/simulation.py
	$(PY) benchmarks/memory_modes.py --device cpu --width 256 --height 256 --steps 4 --tokens 16 \
		--reference 256 --cases full balanced low 0=50MiB,cpu=1GiB thinking:balanced edit:balanced

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project pyproject.toml

clean:
	rm -rf $(VENV) build outputs

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(PY)
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(PY)
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable ".[test]"
	touch $@ $(VENV)/.runtime
