#!/usr/bin/env bash
# The tests under sanitizers; CONTRIBUTING.md tells what they find.
#   run.sh suite             all tests, on lesser instruction sets those that kernels matter to, with memory off, then poisoned;
#                            stress
#   run.sh slice             what CI has time for: the baseline, the most telling tests; stress
#   run.sh stress [OPTION]   many threads under ThreadSanitizer; options of stress.py
#   run.sh address COMMAND   a command, such as `python program.py`, under AddressSanitizer
#   run.sh thread COMMAND    and under ThreadSanitizer
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python}

# The slice: these reach most of the C++. Much of opcheck and all of compilation is time in Python.
SLICE=(tests/test_{operators,errors,memory,node,recurrent,dtypes,refractory,spike_windows}.py)
SLICE_CHOICE='not compil and not inductor and not dynamic and (not opcheck or lif_feed_forward or lif_step)'

# Builds the libraries for a sanitizer, into a copy of the tree, so that those in use stay as they are.
build() { # address or thread; ON: for every instruction set
  local folder=$root/build/sanitize/$1
  mkdir -p "$folder"
  echo "Building for the $1 sanitizer" >&2
  cmake -S"$root" -B"$folder/cmake" -GNinja -DPython3_EXECUTABLE="$(command -v "$python")" -DNORSE_FAST_CUDA=OFF \
    -DNORSE_FAST_SANITIZE="$1" -DNORSE_FAST_ALL_ISAS="$2" >"$folder.log" || { cat "$folder.log" >&2; return 1; }
  cmake --build "$folder/cmake" >"$folder.log" || { cat "$folder.log" >&2; return 1; }
  rm -rf "$folder/tree"
  mkdir -p "$folder/tree"
  (cd "$root" && git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from=- --ignore-failed-read) | tar --extract --directory="$folder/tree"
  cmake --install "$folder/cmake" --prefix "$folder/tree/norse_fast" >"$folder.log" || return 1
  # Without them, or with those of an installed package, all would pass.
  # In a shell of its own, in the tree: the root's own package would come first, and a step after it would hide its failure.
  (cd "$folder/tree" && "under_$1" "$python" -c "
import norse_fast
assert norse_fast.__file__.startswith('$folder/tree/'), norse_fast.__file__
assert 'none' not in norse_fast.backends()['cpu'] and norse_fast.backends()['autograd'] == 'C++', norse_fast.backends()")
}

# C++'s library too, because the sanitizers look for its exceptions when the process starts.
preload() { echo "$(gcc -print-file-name="$1"):$(gcc -print-file-name=libstdc++.so)"; }

# Leaks: Python keeps much until its end. Segmentation faults: pytest would report them in the sanitizer's place. Large
# allocations may fail, as elsewhere.
under_address() {
  local options=detect_leaks=0:abort_on_error=1:handle_segv=2:handle_sigbus=2:allocator_may_return_null=1
  # Not with vectors of 64 bytes: GCC stores them aligned, and the stack that stays after a return is not, so it would crash.
  [[ ${NORSE_FAST_CPU_CAPABILITY:-} == avx512 ]] || options+=:detect_stack_use_after_return=1
  # What the library does not hand out itself: NaN as well.
  [[ ${NORSE_FAST_MEMORY:-} != poison ]] || options+=:malloc_fill_byte=255:max_malloc_fill_size=2147483647
  env LD_PRELOAD="$(preload libasan.so)" PYTHONPATH="$root/build/sanitize/address/tree" \
    ASAN_OPTIONS="$options" UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1 "$@"
}

# Only our libraries are instrumented, so only they can be judged.
under_thread() {
  env LD_PRELOAD="$(preload libtsan.so)" PYTHONPATH="$root/build/sanitize/thread/tree" \
    TSAN_OPTIONS="ignore_noninstrumented_modules=1:history_size=4:suppressions=$root/tests/sanitize/suppressions.txt" "$@"
}

# In two processes, which keep two cores busy where much is Python; a finding ends one, fails its test, and another takes over.
instruction_set=any
run_tests() { # an expression for -k, files
  local choice=$1 deselect=() file when
  shift
  while read -r when file _; do
    [[ $when == always || $when == "$NORSE_FAST_MEMORY" || $when == "$instruction_set" ]] && deselect+=("--deselect=$file")
  done < <(grep -v '^#' "$root/tests/sanitize/deselected.txt")
  echo "== $NORSE_FAST_CPU_CAPABILITY, memory ${NORSE_FAST_MEMORY}"
  (cd "$root/build/sanitize/address/tree" &&
    under_address "$python" -m pytest -q -n 2 --dist worksteal -p no:cacheprovider "${deselect[@]}" -k "$choice" "$@")
}

stress() {
  # Before the build, which asks its libraries for this set: the suite ends with another one.
  NORSE_FAST_CPU_CAPABILITY=baseline NORSE_FAST_MEMORY=''
  build thread OFF || return 1
  under_thread "$python" "$root/build/sanitize/thread/tree/tests/sanitize/stress.py" "$@"
}

suite() {
  build address ON || return 1
  local files capabilities failed=0
  files=$(cd "$root" && echo norse_fast tests/test_*.py tests/*/test_*.py)
  capabilities=$(cd "$root" && "$python" -c "from tests.test_extension import capabilities; print(*capabilities())")
  for NORSE_FAST_CPU_CAPABILITY in $capabilities; do
    [[ $NORSE_FAST_CPU_CAPABILITY == "${capabilities##* }" ]] && instruction_set=best || instruction_set=lesser
    for NORSE_FAST_MEMORY in off poison; do
      # shellcheck disable=SC2086
      run_tests '' $files || failed=1
    done
  done
  stress --rounds 300 || failed=1
  return $failed
}

slice() {
  local failed=0
  build address OFF || return 1
  NORSE_FAST_CPU_CAPABILITY=baseline NORSE_FAST_MEMORY=poison run_tests "$SLICE_CHOICE" "${SLICE[@]}" || failed=1
  stress --rounds 40 || failed=1
  return $failed
}

export NORSE_FAST_CPU_CAPABILITY NORSE_FAST_MEMORY
case ${1:-} in
suite | slice | stress) "$@" ;;
address | thread)
  build "$1" OFF
  "under_$1" "${@:2}"
  ;;
*)
  sed -n '2,8p' "$0" >&2
  exit 2
  ;;
esac
