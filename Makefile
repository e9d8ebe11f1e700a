# Two commands do everything on a fresh machine: `make demo` and `make test`. `make benchmark` compares methods, for about
# a quarter of an hour; give it other arguments by BENCHMARK="--encoder ... --start ... --out ...".
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

BENCHMARK ?= --encoder embedded --start noise --eps 20 --steps 10,30,100 --out runs/benchmark
# A process for each core, each with whole files of tests, as these share fixtures. Each loads torch, about 1 GB. In the
# order of the files, for those that take long come early.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder

.PHONY: demo test test-emulated benchmark clean

demo: $(VENV)/.demo
	$(RUN)/oodattack demo

test: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/pytest $(PARALLEL)

# As on other processors: torch, oneDNN and MKL with the kernels of older instruction sets; then with more threads (on few
# cores MKL would keep torch from it).
test-emulated: $(VENV)/.dev
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE $(RUN)/pytest $(PARALLEL)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE $(RUN)/pytest $(PARALLEL)
	OMP_NUM_THREADS=2 $(RUN)/pytest $(PARALLEL)
	OMP_NUM_THREADS=4 MKL_DYNAMIC=FALSE $(RUN)/pytest $(PARALLEL)

benchmark: $(VENV)/.benchmark
	$(RUN)/python -m benchmarks.compare $(BENCHMARK)

# The stamps: an environment is made again when what it should hold has changed.
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
