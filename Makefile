# A fresh machine needs Python 3.11 or newer and make, nothing else. `make help` lists the commands.

VENV   ?= .venv
OUT    ?= out
PRESET ?= laptop
SEEDS  ?= 0
# Further arguments for pip, such as an index of CPU-only torch wheels (see the README).
PIP_ARGS ?=

BIN   := $(VENV)/bin
PY    := $(BIN)/python
STAMP := $(VENV)/.alignkd-installed
ORDERS := kd_then_align,align_then_kd

# An interrupted install, a moved folder or an upgraded Python leaves an environment that only looks ready.
INTACT := $(shell $(PY) -I -c 'import importlib.util as u, os; \
	assert all(map(u.find_spec, ("pip", "torch", "trl", "jupyterlab", "nbval", "myst_nb"))); \
	assert os.path.samefile(os.path.dirname(u.find_spec("alignkd_lab").origin), "alignkd_lab"); \
	print("yes")' 2>/dev/null)

# What is installed is not compiled (see below), so each import would be compiled anew where nothing may be kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help env run test gpu lab notebooks site links figures clean
ifneq ($(INTACT),yes)
.PHONY: $(STAMP)
endif

help:
	@echo "make run        set up, run both orders in both worlds ($(PRESET) preset), write the report"
	@echo "make test       set up, check the style, run every test and every notebook, open a browser"
	@echo "make gpu        measure this machine's GPU, twelve minutes: tests, a run, a training by each method, the bench"
	@echo "                (REHEARSE=1: the same with tiny models on the CPU)"
	@echo "make lab        set up, open JupyterLab on the notebooks"
	@echo "make notebooks  execute every notebook and save it without widget state"
	@echo "make site       build the course as pages for a browser in $(OUT)/site, from the notebooks as saved"
	@echo "make links      build the pages' list of links and ask each address in it (needs a network)"
	@echo "make figures    draw RESULTS.md's pictures from the recorded runs, record the playground"
	@echo "make env        set up only: $(VENV) with the versions of constraints.txt"
	@echo "make clean      remove $(VENV), $(OUT) and caches of tools (the weights stay in the user's cache)"
	@echo "Settings: OUT=$(OUT) PRESET=$(PRESET) SEEDS=$(SEEDS) PYTHON=python3.12 PIP_ARGS='...'"

env: $(STAMP)

# --no-compile: pip would compile 2 GB of modules of which a run imports a part, half of the set-up's time.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $(STAMP)
	@if $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	    && $(PY) -m pip --version >/dev/null 2>&1; then \
	  echo "Completing $(VENV)"; \
	else \
	  python=; \
	  for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python; do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      python=$$candidate; break; \
	    fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "No Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  if ! $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "$$python cannot make environments (no ensurepip)." \
	      "On Debian and Ubuntu: sudo apt-get install python3-venv. Then run make again." >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$($$python --version)"; \
	  rm -rf $(VENV) && $$python -m venv $(VENV) || exit 1; \
	fi
	@echo "About to download Python packages that pip has not cached: 0.5 GB with a CPU build of torch,"
	@echo "3 GB with the default build on Linux, which brings NVIDIA's CUDA libraries (2.7 GB of it)."
	@echo "The README says how to choose the CPU build. The first run or test then fetches SmolLM2's weights, 93 MB."
	$(PY) -m pip install --disable-pip-version-check --no-compile $(PIP_ARGS) -c constraints.txt -e ".[course,test,site]"
	@touch $(STAMP)

# The package itself announces the weights, when it does not find them in the user's cache.
run: $(STAMP)
	$(PY) -m alignkd_lab run --world mog --preset $(PRESET) --out $(OUT)
	$(PY) -m alignkd_lab run --world lm --preset $(PRESET) --pipelines $(ORDERS) --seeds $(SEEDS) --out $(OUT)
	@$(PY) -m alignkd_lab report $(OUT)

test: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n auto --dist loadscope --no-loadscope-reorder -m "not browser" tests
	$(PY) tests/widgets_7.py -n auto --dist loadscope -q
	ALIGNKD_OUT="$$(mktemp -d)" $(PY) -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env notebooks
	$(PY) -m pytest -rs tests/test_browser.py
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs tests/test_lab.py tests/test_pages.py tests/test_playground.py tests/test_playground_world.py

# Without a network Liger's rows are left out.
gpu: $(STAMP)
	$(if $(REHEARSE),,-$(PY) -m pip install --disable-pip-version-check -q $(PIP_ARGS) -c constraints.txt liger-kernel)
	$(PY) -m alignkd_lab.bench.gpu $(OUT) $(if $(REHEARSE),--rehearse)

lab: $(STAMP)
	$(PY) -m jupyterlab notebooks

notebooks: $(STAMP)
	$(PY) -m alignkd_lab.course.notebooks notebooks/*.ipynb

# -E: all pages anew, since one that did not change may stand beside a neighbour that did.
site: $(STAMP)
	$(PY) -m sphinx -q -E -W --keep-going -c notebooks/site -d $(OUT)/site-trees notebooks $(OUT)/site
	@echo "Open $(OUT)/site/index.html"

links: $(STAMP)
	$(PY) -m sphinx -q -b linkcheck -c notebooks/site -d $(OUT)/site-trees notebooks $(OUT)/site-links

figures: $(STAMP)
	$(PY) -m alignkd_lab.study.pictures data/figures
	$(PY) tests/record_playground.py data/figures/playground.gif alignkd_lab/course/playground/still.png

clean:
	rm -rf $(VENV) $(OUT) .pytest_cache .ruff_cache
	find alignkd_lab tests notebooks -name __pycache__ -prune -exec rm -rf {} +
