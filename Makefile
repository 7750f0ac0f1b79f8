# Two commands: `make figures` and `make test`. Each sets up .venv by itself.
#   STUDY=mini      which study, a name in studies/ or the path of a study file
#   PYTHON=python3  the Python (3.11 or later) that .venv is made from
#   ENV=active      use the active environment instead of .venv (conda: see environment.yml); for `bench`, and for the
#                   tests against Overcomplete: pip install --no-deps -r requirements-peers.lock

STUDY ?= mini
PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# glibc keeps the memory of tensors for the next ones, in place of returning and faulting it in at every step
export MALLOC_MMAP_THRESHOLD_ = 33554432
export MALLOC_TRIM_THRESHOLD_ = 1073741824

ifeq ($(ENV),active)
BIN :=
READY :=
PEERS :=
else
BIN := .venv/bin/
READY := .venv/ready
PEERS := .venv/peers
endif

.PHONY: help figures plan check test lab bench models clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

figures: $(READY) ## run the notebooks of STUDY in sequence and regenerate its figures
	@$(BIN)python -m blindspots_lib figures "$(STUDY)"

plan: $(READY) ## say what STUDY will take: images, disk, memory, time, downloads, agreements
	@$(BIN)python -m blindspots_lib plan "$(STUDY)"

check: $(READY) ## say what would stop STUDY, without running it
	@$(BIN)python -m blindspots_lib check "$(STUDY)"

test: $(READY) $(PEERS) ## run the tests, with the smoke study through papermill and nbval
	@$(BIN)python -m pytest
	@echo "all tests passed; next: make figures"

lab: $(READY) ## open the notebooks in JupyterLab
	@$(BIN)jupyter lab --notebook-dir notebooks

bench: $(READY) $(PEERS) ## time the SAE and the statistics side by side with peers (half an hour, 16 GB of memory, 13 GB of disk)
	@$(BIN)python -m benchmarks

models: $(READY) ## train the miniature models again (hours on a CPU, resumes)
	@for step in train_autoencoder train_oracle train_backbone "train_pipelines sd15" \
		train_dpo "train_pipelines sd21" "train_pipelines pixart" train_clip "train_kandinsky prior" \
		"train_kandinsky decoder"; do \
		$(BIN)python -m models.$$step || exit 1; done
	@$(BIN)python -m models.judge_pipelines
	@echo "weights and cards are in models/mini; next: make figures"

clean: ## remove what the studies made (runs/), not the figures, the models or .venv
	rm -rf runs

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; name another with PYTHON=")'
	@echo "setting up .venv with the pinned packages (once, some minutes)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install -r requirements.lock
	@.venv/bin/pip install --quiet --no-deps --editable .
	@touch $@

.venv/peers: requirements-peers.lock .venv/ready
	@.venv/bin/pip install --quiet --no-deps -r requirements-peers.lock
	@touch $@
