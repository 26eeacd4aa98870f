PYTHON ?= python3
TORCH ?= torch==2.13.0
ENVIRONMENT := build/bench-venv

.PHONY: test sanitize docs bench soak gpu-check

# Everything, from nothing: environment, build, lint, types, docs, tests.
test:
	PYTHON=$(PYTHON) TORCH='$(TORCH)' bash .ci/run

# The tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, in the current environment, for hours;
# ARGS=slice is the part that CI runs. See CONTRIBUTING.md.
sanitize:
	PYTHON=$(PYTHON) bash tests/sanitize/run.sh $(or $(ARGS),suite)

# 20,000 training steps over changing sizes, in the current environment; fails if memory grows.
soak:
	$(PYTHON) benchmarks/soak.py $(ARGS)

# Pages into build/docs, in the current environment, which needs '.[docs]'; a warning is an error.
docs:
	$(PYTHON) -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

# Compares with Norse in an environment of its own; options for the benchmark go into ARGS.
# An absolute path, first in PATH: the build calls cmake and ninja by name.
bench: export PATH := $(CURDIR)/$(ENVIRONMENT)/bin:$(PATH)
bench:
	$(PYTHON) -m venv $(ENVIRONMENT)
	pip install $(TORCH)
	pip install 'setuptools>=77' cmake ninja numpy h5py
	pip install --no-build-isolation '.[bench]'
	pip install --no-deps norse==1.1.0 nir nirtorch
	# From another directory, or Python would import the sources, which have no library beside them.
	cd build && python -m norse_fast.benchmark --output ../benchmarks/results $(ARGS)

# On a machine with a GPU: builds, runs the CUDA tests and the benchmark of the GPU. See docs/gpu.md.
gpu-check:
	PYTHON=$(PYTHON) bash benchmarks/gpu_check.sh
