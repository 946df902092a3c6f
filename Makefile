# make demo: from nothing to a picture of the top ten, and a flight located on a map.   make test: lint and tests.
# make bench: the measured comparisons of benchmarks/README.md; DEVICE=cuda runs them on a GPU.
# make test-oldest: the tests with the oldest packages that the requirements files allow.
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
RUN := $(BIN)/python

# A ResNet-18 from random weights on 64 x 64 pixels; bfloat16 halves the time where the processor
# has it (elsewhere it is emulated and slow).
BF16 := $(shell grep -qs avx512_bf16 /proc/cpuinfo && echo --bf16)
TOY_OPTIONS := --backbone resnet18 --no_pretrained --share --h 64 --w 64 --pool gem --maps 3,last --pad 8 --turns 4 \
	--joint_flips --batchsize 32 --epochs 56 --droprate 0.1 --loss_weights instance=1,infonce=1 --optimizer adamw \
	--lr 0.002 --schedule cosine --warm_epoch 3 --cache ram $(BF16)

.PHONY: demo test test-oldest bench install clean

demo: $(VENV)/run.stamp
	$(RUN) prepare.py toy --out data/toy
	$(RUN) train.py --name toy --overwrite --train_all --data_dir data/toy $(TOY_OPTIONS)
	$(RUN) test.py --name toy --test_dir data/toy
	$(RUN) evaluate_gpu.py
	$(RUN) demo.py --query_index 233
	$(RUN) prepare.py tiles data/toy_map/map --metres 110,130 --overlap 0.75 --pixels 128 --out data/toy_tiles
	$(RUN) locate.py data/toy_map/flight --name toy --map data/toy_tiles --flight --speed 15

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUN) -m pytest -n auto --maxprocesses 8

# Each package>=version of the requirements files as package==version. The Python must be of their
# time: 3.10, 3.11 or 3.12.
test-oldest: OLDEST := .venv-oldest
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	sed -n 's/>=/==/p' requirements*.txt > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt -c $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pytest -n auto --maxprocesses 8

bench: $(VENV)/run.stamp
	$(RUN) benchmarks/evaluate.py --device $(DEVICE) --json benchmarks/results/evaluate.json
	$(RUN) benchmarks/scaling.py --device $(DEVICE) --json benchmarks/results/scaling.json
	$(RUN) benchmarks/input_pipeline.py --device $(DEVICE) --json benchmarks/results/input_pipeline.json
	$(RUN) benchmarks/extract.py --device $(DEVICE) --json benchmarks/results/extract.json
	$(RUN) benchmarks/train_step.py --device $(DEVICE) --json benchmarks/results/train_step.json

install: $(VENV)/run.stamp

$(VENV)/run.stamp: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements.txt
	$(RUN) -c "open('$@', 'w')"

$(VENV)/dev.stamp: $(wildcard requirements*.txt)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	$(RUN) -c "open('$@', 'w')"

clean:
	$(PYTHON) -c "import shutil; [shutil.rmtree(each, ignore_errors=True) for each in ('$(VENV)', '.venv-oldest')]"
