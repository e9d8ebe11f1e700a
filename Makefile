# Two commands do everything on a fresh machine: `make demo` and `make test`. `make docs` builds the documentation.
# `make benchmark` compares methods, for about a quarter of an hour; give it other arguments by
# BENCHMARK="--encoder ... --start ... --out ...".
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

BENCHMARK ?= --encoder embedded --start noise --eps 20 --steps 10,30,100 --out runs/benchmark
# One process per core. Each loads torch (about 1 GB) and runs whole test files, because the tests of a file share
# fixtures. Files keep their order, in which slow ones come early.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder

.PHONY: demo test test-emulated benchmark docs clean

demo: $(VENV)/.demo
	$(RUN)/oodattack demo

test: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/zensical build --strict
	$(RUN)/pytest $(PARALLEL)

# The documentation site, in site/; a link that leads nowhere is an error.
docs: $(VENV)/.dev
	$(RUN)/zensical build --strict

# Run the tests as on other processors: first with the kernels of older instruction sets in torch, oneDNN and MKL, then
# with more threads (MKL_DYNAMIC=FALSE, because MKL would otherwise use no more threads than there are cores).
test-emulated: $(VENV)/.dev
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE $(RUN)/pytest $(PARALLEL)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE $(RUN)/pytest $(PARALLEL)
	OMP_NUM_THREADS=2 $(RUN)/pytest
	OMP_NUM_THREADS=4 MKL_DYNAMIC=FALSE OMP_WAIT_POLICY=PASSIVE $(RUN)/pytest

benchmark: $(VENV)/.benchmark
	$(RUN)/python -m benchmarks.compare $(BENCHMARK)

# Each environment has a stamp file, and is rebuilt when its requirements change.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.benchmark: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet -c constraints.txt -e '.[benchmark]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
