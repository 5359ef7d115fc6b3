# A fresh machine needs Python 3.10 or newer and a package index; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test train clean
help:
	@echo "make demo                              LeNet on the bundled real sample: trained, tested, drawn (2 minutes)"
	@echo "make test                              the default tests"
	@echo "make train MODEL=CNN/LeNet ARGS='...'  train a model for real"
	@echo "make clean                             remove the environment .venv (runs/ and data/ stay)"

# Made anew when the pins change. Written to the last moment: an interrupted install starts over.
.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "installing what requirements.txt pins into .venv: a minute, or some with a slow network"
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

demo: .venv/installed
	$(BIN)/python -m dl train CNN/LeNet --data fashion_mnist-sample --out runs/demo --fresh

test: .venv/installed
	$(BIN)/python -m pytest -n auto

train: .venv/installed
	$(BIN)/python -m dl train $(MODEL) $(ARGS)

clean:
	rm -rf .venv
