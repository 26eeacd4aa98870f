#!/usr/bin/env bash
# What needs a GPU, in stages in the order of their worth; without a network, in under 6 minutes. See docs/gpu.md.
#
#   STAGES  which of them, in this order; by default abcdef; and k, programs that `make gpu-kernels` built
#   PYTHON  a Python with torch 2.11 or newer with CUDA, pytest, hypothesis, rich and matplotlib; cmake and ninja to build
#   WHEELS  a folder with wheels of what to compare with, for example norse and spikingjelly; may be missing
#   OUT     where the results go: a file per stage, gpu.json and gpu.png
#
# A library norse_fast/_C_cuda.so that is there is used as it is; otherwise it is built for the GPU of this machine.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
stages=${STAGES:-abcdef}
work=build/gpu-check
mkdir -p "$out" "$work"
# The tools beside that Python, and the compiler where it is installed without being on the PATH.
PATH=$(dirname "$(command -v "$python")"):$PATH:/usr/local/cuda/bin
nvidia-smi || { echo "no GPU: nvidia-smi failed" >&2; exit 2; }

PYTHONPATH=$PWD
if compgen -G "${WHEELS:-wheels}/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" \
    "${WHEELS:-wheels}"/*.whl
  PYTHONPATH=$PYTHONPATH:$PWD/$work/site
fi
export PYTHONPATH PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore

# The libraries fit any torch; the autograd node fits one, so it is built here, while the first stage runs without.
configure() {
  cmake -S . -B "$work/$1" -GNinja -DPython3_EXECUTABLE="$(command -v "$python")" \
    -DCMAKE_INSTALL_PREFIX="$PWD/norse_fast" "${@:2}"
}
if [ ! -e norse_fast/_C_cuda.so ]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 | tr -d '. ')
  { configure all -DNORSE_FAST_CUDA=ON -DNORSE_FAST_CUDA_ARCHITECTURES="$capability-real" &&
    cmake --build "$work/all" && cmake --install "$work/all"; } >"$work/build.log" 2>&1 ||
    { tail -40 "$work/build.log" >&2; exit 1; }
  node=
else
  { configure node -DNORSE_FAST_CUDA=OFF && cmake --build "$work/node" --target _C_autograd; } \
    >"$work/node.log" 2>&1 &
  node=$!
fi
cuda=$(nvcc --version | sed -n 's/.*, V//p')

install_node() {
  [ -n "$node" ] || return 0
  wait "$node" && cp "$work"/node/_C_autograd*.so norse_fast/ &&
    sed "s/\"cuda\": \"none\"/\"cuda\": \"$cuda\"/" "$work/node/_build.json" >norse_fast/_build.json ||
    { echo "without the autograd node:"; tail -5 "$work/node.log"; }
  node=
}

failed=
# run STAGE SECONDS COMMAND...: adds what it prints to the stage's file, and its end to the output.
run() {
  local stage=$1 limit=$2 start=$SECONDS
  shift 2
  timeout --kill-after=5 "$limit" "$@" >"$work/now.txt" 2>&1
  local status=$?
  { echo "\$ $*"; cat "$work/now.txt"; } >>"$out/$stage.txt"
  [ $status = 0 ] || failed="$failed $stage"
  echo "== $stage: exit $status after $((SECONDS - start)) s (limit $limit): $*"
  grep -vE '^\s*$' "$work/now.txt" | tail -n "${TAIL:-12}" | cut -c1-150
}
tests() { run "$1" "$2" "$python" -m pytest -q -p no:cacheprovider -W default --tb=short tests/test_cuda.py "${@:3}"; }
measure() { TAIL=40 run "$1" "$2" "$python" -m norse_fast.benchmark.gpu --output "$out" --parts "${@:3}"; }
profile() {
  command -v ncu >/dev/null || return 0
  TAIL=3 run "$1" "$2" ncu --clock-control none --kernel-name-base demangled -k regex:norse_fast --section SpeedOfLight --section WarpStateStats \
    --section Occupancy --section SchedulerStats --section LaunchStats --section MemoryWorkloadAnalysis \
    "$python" benchmarks/gpu_profile.py "$3"
}
# The allocator's cache would hide what a kernel reads and writes out of bounds.
sanitize() {
  command -v compute-sanitizer >/dev/null || return 0
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 run "$1" "$2" compute-sanitizer --tool "$3" --error-exitcode 1 \
    "$python" -m pytest tests/test_cuda.py -q -p no:cacheprovider -W default \
    -k "(test_edges_of_segments_and_blocks and 33) or test_recurrent_chunks or (test_lanes_per_thread and 94 and float32)"
}

for stage in $(grep -o . <<<"$stages"); do
  case $stage in
    a)
      tests a 60 -k "there_are or (test_sequence_equals and float32 and False) or (test_recurrent_layer and float32 and stepwise)"
      tests a 40 -k "test_recurrent_layer and float32 and persistent"
      ;;
    b)
      install_node
      measure b 60 layer cell recurrent
      profile b 30 layer
      profile b 30 recurrent
      ;;
    c) measure c 90 models peers ;;
    d)
      workers=$("$python" -c "import xdist; print('-n6')" 2>/dev/null)
      tests d 120 $workers
      ;;
    e)
      sanitize e 40 memcheck
      sanitize e 40 racecheck
      ;;
    f) measure f 90 linear sizes graphs ;;
    k) for program in build/gpu-kernels/*; do TAIL=20 run k 15 "$program"; done ;;
    *) echo "unknown stage $stage" >&2; exit 2 ;;
  esac
done
echo "failed stages:${failed:- none}"
[ -z "$failed" ]
