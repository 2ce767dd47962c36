# `make help` explains every target. All commands run in .venv, which `make install` makes.
SHELL := /bin/bash
PYTHON ?= python3.11
BACKBONE ?= miniature
MINIATURE ?= miniature
TASK ?= scanqa
# The world of a task's questions, as its configuration for the toy world names it.
MODALITY ?= $(shell sed -n 's|.*root: data/toyworld/\([a-z0-9]*\).*|\1|p' experiments/*/toyworld/$(TASK).yaml 2>/dev/null)
DATA ?= data/toyworld/$(MODALITY)
ANNOTATIONS ?=
RUN ?=
ALIGNED ?= $(RUN)
TUNED ?=
ARGS ?=
N ?= 50
BIN := .venv/bin
INSTALLED := .venv/installed
WORLD := $(addsuffix /toyworld.json,$(filter data/toyworld/%,$(DATA:/=)))
ROBUSTNESS := OMP_NUM_THREADS=1 $(BIN)/pytest tests/robustness
option = $(if $(2),--$(1)="$(2)")
CHOICES = --backbone="$(BACKBONE)" --data="$(DATA)"
READS = $(CHOICES) $(call option,annotations,$(ANNOTATIONS)) $(call option,aligned,$(ALIGNED))

.DEFAULT_GOAL := help
.PHONY: help align tune eval test test-slow crash-test slurm-test bench rehearse gpu-check fuzz faults backbone install doctor docs paper params system-libraries

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' \
	  | while IFS=$$'\t' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done
	@echo "  variables:  MODALITY=$(MODALITY) BACKBONE=$(BACKBONE) DATA=$(DATA) RUN=$(RUN) ARGS='--model.learning_rate=1e-3 ...'"
	@echo "  of tasks:   TASK=$(TASK) ANNOTATIONS=<folder> ALIGNED=$(ALIGNED) TUNED=$(TUNED)"

align: $(INSTALLED) $(WORLD)  ## align MODALITY=3d|audio|highfps|ego|thermal|events|imu to the video interface; DATA=<folder> for your own
	$(BIN)/vlynx align $(MODALITY) $(CHOICES) $(call option,run,$(RUN)) $(ARGS)

tune: $(INSTALLED) $(WORLD)  ## teach the LLM a TASK with the aligned modality: scanqa|sqa3d|avsd|avqa|music_avqa|avut|llava_video|egoexo
	$(BIN)/vlynx tune $(TASK) $(READS) $(call option,run,$(TUNED)) $(ARGS)

eval: $(INSTALLED) $(WORLD)  ## answer and score the test questions of a tuned TASK; of videomme|mvbench|mlvu after llava_video
	$(BIN)/vlynx eval $(TASK) $(READS) $(call option,tuned,$(TUNED)) $(ARGS)

test: $(INSTALLED)  ## all fast tests, linter and type checker (a few minutes on 2 cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## tests that take minutes each or belong to long ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m slow

crash-test: $(INSTALLED)  ## kill runs at N=50 of their places; each must end like one that nobody killed (10 minutes)
	$(ROBUSTNESS) -n 2 -m crash --kills=$(N) $(ARGS)

slurm-test: $(INSTALLED)  ## stop jobs of a real SLURM in every way (a few minutes); as root it is installed if missing
	$(ROBUSTNESS) -m slurm -rs

bench: $(INSTALLED)  ## speed and memory of alignment, tuning, answering and reading, as ratios to the plain ways
	$(BIN)/python -m experiments.speed.alignment_step
	$(BIN)/python -m experiments.speed.prefix_sharing
	$(BIN)/python -m experiments.speed.fewer_tokens
	$(BIN)/python -m experiments.speed.token_store
	$(BIN)/python -m experiments.speed.loading

rehearse: BACKBONE = llava_ov_0.5b
rehearse: $(INSTALLED)  ## align, tune and evaluate BACKBONE=llava_ov_0.5b at its real size with random weights
	$(BIN)/python -m experiments.speed.rehearsal --backbone $(BACKBONE) $(ARGS)

gpu-check: $(INSTALLED)  ## tests, rehearsal and speed on this GPU, in gpu-check.md (12 minutes)
	$(BIN)/python -m experiments.speed.gpu_check $(ARGS)

paper: $(INSTALLED)  ## the paper's tables in miniature, with baselines (hours; ARGS=--quick takes minutes); goes on where it stopped
	$(BIN)/python -m experiments.paper.run $(ARGS)

fuzz: $(INSTALLED)  ## thousands of damaged files and annotations; none may crash, hang or lead out of its folder
	$(ROBUSTNESS) -n 2 -m fuzz $(ARGS)

faults: $(INSTALLED)  ## full disks, lost mounts, hanging workers, signals, killed ranks: what a run says and what it leaves
	$(ROBUSTNESS)/test_faults.py -n 2 -m "" $(ARGS)

backbone: $(INSTALLED)  ## train a miniature anew (one to two hours), MINIATURE=miniature or miniature_qwen3, in data/MINIATURE
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m experiments.miniature.train --config experiments/$(MINIATURE)/recipe.yaml \
	  --out data/$(MINIATURE) $(ARGS)
	$(BIN)/python -m experiments.miniature.card --config experiments/$(MINIATURE)/recipe.yaml \
	  --model data/$(MINIATURE)

docs: $(INSTALLED)  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

params: $(INSTALLED)  ## LoRA parameter counts of the paper's models
	$(BIN)/vlynx params

doctor:  ## what imports, what is missing, and the exact remedy
	@$$(command -v $(BIN)/python || command -v $(PYTHON) || echo python3) vlynx_pl/runs/doctor.py

install: $(INSTALLED)  ## the environment in .venv, with pinned versions

$(INSTALLED): pyproject.toml constraints.txt | system-libraries
	@$(PYTHON) -c 'import sys, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null || { \
	  echo "$(PYTHON) with venv is needed: apt-get install python3.11 python3.11-venv," \
	       "or name another with PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# open3d's wheel does not bring them. Installed where that is allowed, else named.
system-libraries:
	@missing="$$($(PYTHON) vlynx_pl/runs/doctor.py --system-packages)"; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing what open3d needs of the system: $$missing"; \
	  apt-get update -qq && apt-get install -y -qq $$missing >/dev/null; \
	else \
	  echo "open3d needs system libraries. Run: sudo apt-get install $$missing"; exit 1; \
	fi

data/toyworld/%/toyworld.json: | $(INSTALLED)
	$(BIN)/python -m experiments.toyworld $* --out data/toyworld/$* --scenes $(or $(SCENES),$(if $(filter 3d,$*),1200,600)) --seed 0 --workers 2
