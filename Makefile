# Both commands work on a fresh machine with Python 3.11 or newer:
#   make demo   restores damaged sample photos, or a folder: make demo PHOTOS=scans
#   make test   runs all tests except the slow ones
PYTHON ?= python3
VENV := .venv
# Where the command `oldphoto` is after that.
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo

WITH_BROWSER := $(VENV)/.browser

.PHONY: demo test test-slow test-web lint format clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(STAMP)

demo: $(STAMP)
ifdef PHOTOS
	$(BIN)/oldphoto restore $(PHOTOS) -o $(DEMO)
else
	$(BIN)/oldphoto samples -o $(DEMO)/samples --overwrite
	$(BIN)/oldphoto degrade $(DEMO)/samples -o $(DEMO)/aged --recipe worn --copies 1 --overwrite
	$(BIN)/oldphoto restore $(DEMO)/aged/old-1 -o $(DEMO)/restored --overwrite
endif

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not web'

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

$(WITH_BROWSER): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[browser]'
	touch $(WITH_BROWSER)

# The page in real browsers: Chromium and Firefox, such as `apt install chromium firefox-esr`. The
# tests of a browser that is not there are skipped.
test-web: $(WITH_BROWSER)
	$(BIN)/python -m pytest tests/test_browser.py tests/test_firefox.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
