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

.PHONY: help figures report explorer plan check fetch test test-gpu golden lint lab bench bench-gpu tour miniatures clean clean-superseded

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

figures: $(READY) ## run the notebooks of STUDY in sequence and regenerate its figures
	@$(BIN)python -m blindspots_lib figures "$(STUDY)"

report: $(READY) ## write again what was found in STUDY, on one page: runs/STUDY/report.html
	@$(BIN)python -m blindspots_lib report "$(STUDY)"

explorer: $(READY) ## write the explorer of STUDY, a folder for any browser: runs/STUDY/explorer/index.html
	@$(BIN)python -m blindspots_lib explorer "$(STUDY)"

plan: $(READY) ## say what STUDY will take: images, disk, memory, time, downloads, agreements
	@$(BIN)python -m blindspots_lib plan "$(STUDY)"

check: $(READY) ## say what would stop STUDY, without running it; DEEP=1 reads all finished files again
	@$(BIN)python -m blindspots_lib check "$(STUDY)" $(if $(DEEP),--deep)

fetch: $(READY) ## download and check all weights of STUDY, before days of work begin (the pairs come with the run)
	@$(BIN)python -m blindspots_lib fetch "$(STUDY)"

test: $(READY) $(PEERS) ## run the tests, with the smoke study through papermill and nbval
	@$(BIN)python -m pytest
	@echo "all tests passed; next: make figures"

test-gpu: $(READY) $(PEERS) ## run the tests that need a GPU, on this machine's
	@$(BIN)python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "error: there is no GPU here, or torch has no CUDA; see CONTRIBUTING.md")'
	@BLINDSPOTS_GPU=required $(BIN)python -m pytest tests/test_gpu.py

golden: $(READY) ## write tests/golden.json again, after the version of a stage was raised
	@$(BIN)python tests/golden.py

lint: $(READY) ## ruff and import-linter: format, faults, and that the rooms import one way only
	@$(BIN)ruff format --check --quiet . && $(BIN)ruff check --quiet . && $(BIN)lint-imports > .lint.log || { cat .lint.log; exit 1; }
	@rm -f .lint.log

lab: $(READY) ## open the notebooks in JupyterLab; those of runs/ were executed here and are trusted
	@for ran in runs/*/notebooks/[0-9]*.ipynb; do [ ! -e "$$ran" ] || $(BIN)jupyter trust "$$ran" > /dev/null; done
	@$(BIN)jupyter lab --notebook-dir . --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

bench: $(READY) $(PEERS) ## time the SAE and the statistics side by side with peers (half an hour, 16 GB of memory, 13 GB of disk, Chromium)
	@$(BIN)python -m benchmarks

bench-gpu: $(READY) $(PEERS) ## time SAE steps and encoding beside Overcomplete on this machine's GPU: figures/bench/gpu.json
	@$(BIN)python -m benchmarks.gpu

tour: $(READY) ## film the explorer and a notebook of `mini` in use: figures/tour.webp (Chromium)
	@$(BIN)python -m benchmarks.tour

miniatures: $(READY) ## train the miniature models again (a day on a CPU, resumes)
	@for step in train_autoencoder train_oracle train_backbone "train_pipelines sd15" \
		train_dpo "train_pipelines sd21" "train_pipelines pixart" train_clip "train_kandinsky prior" \
		"train_kandinsky decoder"; do \
		$(BIN)python -m miniatures.$$step || exit 1; done
	@$(BIN)python -m miniatures.judge_pipelines
	@echo "weights and cards are in miniatures/weights; next: make figures"

clean: ## remove what the studies made (runs/), except what people labelled and the checkpoints of `make miniatures`
	@[ ! -d runs ] || find runs -mindepth 2 -maxdepth 2 ! -path 'runs/miniatures/*' ! -name review -exec rm -rf {} +
	@[ ! -d runs ] || find runs -mindepth 1 -maxdepth 1 -type d -empty -delete

clean-superseded: ## remove outputs of STUDY that were set aside because they were made again
	rm -rf "runs/$(basename $(notdir $(STUDY)))/superseded"

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
