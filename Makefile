# Every target sets up what it needs in .venv, so each works as the first command after a clone.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
PROMPT := a big yellow star to the left of a small red circle on a blue background

.PHONY: demo demo-eval test live nightly bench lint clean

demo: $(VENV)/.runtime
	$(VENV)/bin/sensenova generate --model demo --prompt "$(PROMPT)" --output outputs/demo.png
	@echo "outputs/demo.png: $(PROMPT), drawn by the built-in demo model"

# What the demo model can do, on scenes that it was not trained on; the figures of its model card.
demo-eval: $(VENV)/.runtime
	PYTHONPATH=. $(VENV)/bin/python -m tools.demo.evaluate sensenova_core/demo --pictures build/demo-eval

# Two processes take one file of tests after the other; each starts a server and a browser, and computes with one thread,
# for torch's own would wait for those of the other.
test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses 2 --dist loadfile

live: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q tests/live -rs

# What takes too long for every change: 100,000 damaged files.
nightly: $(VENV)/.test
	OMP_NUM_THREADS=1 PYTHONPATH=. $(VENV)/bin/python -m tests.support.mutations --cases 100000

bench: $(VENV)/.runtime
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable ".[bench]"
	$(VENV)/bin/python benchmarks/text_to_image.py
	PYTHONPATH=. $(VENV)/bin/python benchmarks/document.py
	PYTHONPATH=. $(VENV)/bin/python benchmarks/experts.py --sizes 16x8 64x24 256x96
	PYTHONPATH=. $(VENV)/bin/python benchmarks/lora.py
	$(VENV)/bin/python benchmarks/simulation.py
	$(VENV)/bin/python benchmarks/memory_modes.py --device cpu --width 256 --height 256 --steps 4 --tokens 16 \
		--reference 256 --cases full balanced low 0=50MiB,cpu=1GiB thinking:balanced edit:balanced

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) build outputs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable ".[test]"
	touch $@ $(VENV)/.runtime
