# make demo: from nothing to a picture of the top ten.   make test: lint and tests.
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
RUN := $(BIN)/python

.PHONY: demo test install clean

demo: $(VENV)/run.stamp
	$(RUN) prepare.py toy --out data/toy
	$(RUN) train.py --name toy --overwrite --train_all --data_dir data/toy $(TOY_OPTIONS)
	$(RUN) test.py --name toy --test_dir data/toy
	$(RUN) evaluate_gpu.py
	$(RUN) demo.py --query_index 233

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUN) -m pytest

install: $(VENV)/run.stamp

$(VENV)/run.stamp: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements.txt
	$(RUN) -c "open('$@', 'w')"

$(VENV)/dev.stamp: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	$(RUN) -c "open('$@', 'w')"

clean:
	$(PYTHON) -c "import shutil; shutil.rmtree('$(VENV)', ignore_errors=True)"
