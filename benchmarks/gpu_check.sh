#!/usr/bin/env bash
# Everything that needs a GPU, in one call, without a network and in under 8 minutes on 16 cores: builds from the
# checkout, runs the CUDA tests, the benchmark and the sanitizers. See docs/gpu.md.
#
#   PYTHON  a Python with torch 2.11 or newer with CUDA, pytest, hypothesis, rich, matplotlib, cmake and ninja
#   WHEELS  a folder with wheels of what to compare with, for example norse and spikingjelly; may be missing
#   OUT     where the results go
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
work=build/gpu-check
mkdir -p "$out" "$work"
# The tools beside that Python, and the compiler where it is installed without being on the PATH.
PATH=$(dirname "$(command -v "$python")"):$PATH:/usr/local/cuda/bin
nvidia-smi -q >"$out/nvidia-smi.txt" || { echo "no GPU: nvidia-smi failed" >&2; exit 2; }

PYTHONPATH=$PWD
if compgen -G "${WHEELS:-wheels}/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$work/site" "${WHEELS:-wheels}"/*.whl
  PYTHONPATH=$PYTHONPATH:$PWD/$work/site
fi
export PYTHONPATH

capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 | tr -d '. ')
cmake -S . -B "$work/cmake" -GNinja -DNORSE_FAST_CUDA=ON -DNORSE_FAST_CUDA_ARCHITECTURES="$capability-real" \
  -DPython3_EXECUTABLE="$(command -v "$python")" -DCMAKE_INSTALL_PREFIX="$PWD/norse_fast" >"$work/build.log" 2>&1 &&
  cmake --build "$work/cmake" >>"$work/build.log" 2>&1 && cmake --install "$work/cmake" >>"$work/build.log" 2>&1 ||
  { tail -40 "$work/build.log" >&2; exit 1; }

failed=0
timeout 200 "$python" -m pytest tests/test_cuda.py -q 2>&1 | tee "$out/tests.txt" | tail -40 || failed=1

timeout 180 "$python" -m norse_fast.benchmark.gpu --output "$out" 2>&1 | tee "$out/benchmark.txt" || failed=1

# The allocator's cache would hide what a kernel reads and writes out of bounds.
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest tests/test_cuda.py -q \
      -k "test_edges_of_segments_and_blocks or test_recurrent_chunks or (test_lanes_per_thread and 94)" \
      >"$out/$tool.txt" 2>&1 || failed=1
    tail -3 "$out/$tool.txt"
  done
fi

exit "$failed"
