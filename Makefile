# A fresh machine needs Python 3.11 or newer and a package index; everything else is installed into .venv.
# Windows: `make` of Git Bash or MSYS2; docs/install.md has the commands for a machine without.
WINDOWS := $(filter Windows_NT,$(OS))$(wildcard .venv/Scripts)
PYTHON ?= $(if $(WINDOWS),python,python3)
BIN := .venv/$(if $(WINDOWS),Scripts,bin)

.PHONY: help demo test check constraints train clean
help:
	@echo "make demo                              LeNet on the bundled real sample: trained, tested, drawn (2 minutes)"
	@echo "make test ARGS='...'                   the default tests; ARGS are flags of pytest"
	@echo "make check                             ruff (lint and format) and pyright"
	@echo "make train MODEL=CNN/LeNet ARGS='...'  train a model for real"
	@echo "make clean                             remove the environment .venv (runs/ and data/ stay)"

# Made anew when the pins change. Written to the last moment: an interrupted install starts over.
.venv/installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c "import dl"  # ends an older Python with one line
	$(PYTHON) -m venv .venv
	@echo "installing what requirements.txt pins into .venv: a minute, or some with a slow network"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt & pip=$$!; seconds=0; \
	while kill -0 $$pip 2>/dev/null; do sleep 1; seconds=$$((seconds + 1)); \
	[ $$((seconds % 10)) -ne 0 ] || echo "  installing for $$seconds s"; done; wait $$pip
	@touch $@

demo: .venv/installed
	$(BIN)/python -m dl train CNN/LeNet --data fashion_mnist-sample --out runs/demo --fresh

test: .venv/installed
	$(BIN)/python -m pytest -n auto $(ARGS)

# The extra [check], installed when it is first asked for.
.venv/checks: .venv/installed
	@echo "installing ruff and pyright into .venv"
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[check]"
	@touch $@

check: .venv/checks
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m pyright

# Pin anew: first empty constraints.txt and `make clean check`, which installs the newest packages that fit.
constraints: .venv/checks
	(echo "# Every installed package but torch's, whose builds differ, pinned by: make constraints"; \
	$(BIN)/python -m pip freeze --exclude-editable --exclude torch --exclude torchvision) > constraints.txt

train: .venv/installed
	$(BIN)/python -m dl train $(MODEL) $(ARGS)

clean:
	rm -rf .venv
