PYTHON ?= python3
TORCH ?= torch==2.13.0
ENVIRONMENT := build/bench-venv
RELEASE := build/release-venv

PEERS := build/peers-torch
PEERS_JAX := build/peers-jax

.PHONY: test install lint sanitize test-compile docs bench bench-peers bench-scaling figures fuzz soak dist sdist wheels pure release-check gpu-check gpu-kernels

# Everything, from nothing: environment, build, lint, types, docs, tests.
test:
	PYTHON=$(PYTHON) TORCH='$(TORCH)' bash .ci/run

# All that the tests need, and the kernels, into the current environment.
install:
	TORCH='$(TORCH)' bash .ci/install

# Format, lint, workflows and types, in the current environment.
lint:
	ruff check .
	ruff format --check .
	git ls-files '*.h' '*.cpp' '*.cuh' | xargs clang-format --dry-run --Werror
	zizmor --offline --no-progress --quiet .github/workflows
	mypy
	mypy --config-file tests/typing/mypy.ini tests/typing/user_program.py
	basedpyright --project tests/typing
	mkdir -p build
	cd tests/typing && PYTHONPATH=../.. basedpyright --verifytypes norse_fast --ignoreexternal >../../build/types.txt || \
	  { grep -B 1 error ../../build/types.txt; exit 1; }

# torch.compile with its default backend on every neuron, batch and length, and all exports, in the current environment.
test-compile:
	$(PYTHON) -m pytest $(addprefix tests/test_,compile.py operators.py deployment.py matrix.py) --compile=all

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
	pip install --no-deps norse==1.1.0 nir nirtorch snntorch==1.0.0
	# From another directory: the package that was installed is measured, and not the sources.
	cd build && python -m norse_fast.benchmark --output ../benchmarks/results $(ARGS)
	python benchmarks/figures.py

# Compares with other libraries, those on PyTorch and those on JAX in an environment each; options go into ARGS.
bench-peers: export PATH := $(CURDIR)/$(PEERS)/bin:$(PATH)
bench-peers:
	$(PYTHON) -m venv $(PEERS)
	pip install $(TORCH)
	pip install 'setuptools>=77' cmake ninja numpy h5py scipy tqdm loguru requests
	pip install --no-build-isolation '.[bench]'
	pip install --no-deps norse==1.1.0 nir nirtorch spikingjelly==2.0.0 snntorch==1.0.0
	$(PYTHON) -m venv $(PEERS_JAX)
	$(PEERS_JAX)/bin/pip install spyx==1.0.0 brainevent==0.2.1 numba
	cd build && python ../benchmarks/peers/run.py --output ../benchmarks/results \
	  --jax-python $(CURDIR)/$(PEERS_JAX)/bin/python $(ARGS)
	python benchmarks/figures.py

# Time and memory over steps, batch, neurons and threads, and beside a busy core, in the current environment.
bench-scaling:
	$(PYTHON) benchmarks/scaling.py $(ARGS)
	$(PYTHON) benchmarks/figures.py

# The figures of README.md and of the pages in docs, from the last results, in the current environment.
figures:
	$(PYTHON) benchmarks/figures.py

# What one uploads, into dist: the archive of the sources and a wheel built from it, checked and used; needs '.[dist]'.
dist:
	PYTHON=$(PYTHON) bash .ci/dist

# The same for publishing: wheels in containers, for old systems, as tool.cibuildwheel in pyproject.toml says.
sdist wheels: | $(RELEASE)
sdist:
	$(RELEASE)/bin/python -m build --sdist --outdir dist
wheels:
	$(RELEASE)/bin/python -m cibuildwheel --output-dir dist
$(RELEASE):
	$(PYTHON) -m venv $@
	$@/bin/pip install build==1.6.1 cibuildwheel==4.3.5

# The package without libraries, for any system, in an environment of its own.
pure:
	$(PYTHON) -m venv build/pure-venv
	NORSE_FAST_PURE=1 build/pure-venv/bin/pip install .
	build/pure-venv/bin/python -W error tests/smoke.py

# Whether a tag, TAG=v1.2.3, is that of the version, and the changelog has it.
VERSION = $(shell sed -n 's/^VERSION = "\(.*\)"$$/\1/p' norse_fast/_kernels/extension.py)
release-check:
	[ '$(TAG)' = 'v$(VERSION)' ] || { echo "TAG: got '$(TAG)', expected 'v$(VERSION)', that of extension.py" >&2; exit 1; }
	grep -q '^## $(VERSION) - ' CHANGELOG.md || { echo "CHANGELOG.md has no section '## $(VERSION) - date'" >&2; exit 1; }

# Looks for calls that are wrong or crash: N public ones and half as many raw ones, in the current environment. A case that fails
# prints its seed and a program. N=20000 takes about a quarter of an hour on one core.
N ?= 2000
fuzz:
	status=0; \
	$(PYTHON) -m tests.fuzz public --cases $(N) $(if $(SEED),--seed $(SEED)) || status=1; \
	$(PYTHON) -m tests.fuzz raw --cases $$(( $(N) / 2 )) $(if $(SEED),--seed $(SEED)) || status=1; \
	exit $$status

# On a machine with a GPU: builds, runs the CUDA tests and the benchmark of the GPU. See docs/gpu.md.
gpu-check:
	PYTHON=$(PYTHON) bash benchmarks/gpu_check.sh

# The kernels by themselves, for a GPU elsewhere, which stage k of gpu-check times; FLAGS and NAME make variants.
NAME ?= kernels
gpu-kernels:
	mkdir -p build/gpu-kernels
	nvcc -x cu -arch=sm_90 -O3 -std=c++17 -DNDEBUG --fmad=false --extended-lambda --expt-relaxed-constexpr -Icsrc $(FLAGS) \
	  benchmarks/gpu_kernels.cu csrc/cuda/limits.cpp -o build/gpu-kernels/$(NAME)
