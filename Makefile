# Everything runs in .venv, made on first use from pyproject.toml and constraints.txt and made again when they change.
#
#   make demo        the bundled model on every rung, compared element by element
#   make test        make check, then every test
#   make prove      every property of the gateware, over every input and state; minutes
#   make campaign    the long form of what the tests try a little of
#   make coverage    the lines, branches, terms and bits of the gateware that simulation reaches; long
#   make boards      what boards/results.json holds of another gateware, built again; hours
#   make netlist     the bundled model on netlists in two FPGAs' cells; minutes
#   make check       formatting, lint, types, import contracts, generated tables
#   make train-demo  train and quantize the bundled model again
#   make clean       remove .venv, caches and build products

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
PIP := $(RUN) pip install -q -q --disable-pip-version-check -c constraints.txt
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
TRAIN_STAMP := $(VENV)/.installed-train
PAGES := $(wildcard README.md */README.md)

.PHONY: demo test prove campaign coverage boards netlist check train-demo clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	@$(BIN)/hwq demo

test: check
	$(RUN) pytest -n auto --dist loadgroup

prove: $(DEV_STAMP)
	$(RUN) tests.proofs.registry
	$(RUN) cogapp -r -I . rtl/README.md

campaign: $(DEV_STAMP)
	HWQ_LINK_FRAMES=100000 HWQ_LINK_RTL_FRAMES=1000 \
	    $(RUN) pytest -n auto tests/link/test_faults.py tests/link/test_rtl_device.py --durations=0 -vv
	$(RUN) pytest -n auto --dist loadgroup -m large
	$(RUN) tests.campaigns program-files --trials 1000000
	$(RUN) tests.campaigns descriptors-machine --trials 1000000
	$(RUN) tests.campaigns descriptors-core --trials 10000
	$(RUN) tests.campaigns programs --trials 20000
	$(RUN) tests.campaigns graphs --trials 20000
	$(RUN) tests.campaigns soft-errors --trials 40000
	$(RUN) tests.campaigns checksums --trials 40000
	$(RUN) tests.campaigns checksums-core --trials 40000
	HWQ_BOARD=colorlight-i5 $(RUN) pytest tests/boards/test_flow.py -k every_folder -vv
	$(RUN) tests.campaigns python-mutants --trials 1000
	$(RUN) tests.campaigns rtl-mutants --trials 1001

coverage: $(DEV_STAMP)
	$(RUN) tests.coverage
	$(RUN) cogapp -r -I . rtl/README.md

boards: $(DEV_STAMP)
	$(RUN) boards.measure --probes $(if $(HWQ_WORKLOADS),--workloads $(HWQ_WORKLOADS))
	$(RUN) cogapp -r -I . $(PAGES)

netlist: $(DEV_STAMP)
	$(BIN)/hwq verify hwq/demo/digits.onnx --arch ecp5-4x4 --targets machine,netlist:colorlight-i5
	$(BIN)/hwq verify hwq/demo/digits.onnx --arch ice40-4x4 --targets machine,netlist:icebreaker

check: $(DEV_STAMP)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(BIN)/lint-imports
	$(if $(PAGES),$(RUN) cogapp --check --diff --verbosity=1 -I . $(PAGES))

train-demo: $(TRAIN_STAMP)
	$(RUN) hwq.demo.train_digits

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .hwq-cache build dist *.egg-info
	find hwq rtl sim boards tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "hwq needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@for cxx in "$${CXX:-c++}" g++ clang++; do command -v "$$cxx" >/dev/null && exit; done; \
	    echo "hwq needs a C++ compiler for its simulator: install g++ or clang++" >&2; exit 1
	@echo "Setting up $(VENV); the first time this takes a minute or two"
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "Python could not make $(VENV): install its venv module (python3-venv on Debian and Ubuntu)" >&2; exit 1; }
	@$(PIP) -e '.[sim]' || \
	    { echo "pip could not install what hwq needs: its message above says why; run make again once that is mended" >&2; exit 1; }
	@touch $@

$(DEV_STAMP): $(STAMP)
	@$(PIP) -e '.[boards,search,report,train,dev]' || \
	    { echo "pip could not install what the boards and tests need: its message above says why" >&2; exit 1; }
	@touch $@

$(TRAIN_STAMP): $(STAMP)
	@$(PIP) -e '.[train]' || \
	    { echo "pip could not install PyTorch and scikit-learn: its message above says why" >&2; exit 1; }
	@touch $@
