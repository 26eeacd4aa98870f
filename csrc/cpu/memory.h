#pragma once
// Memory of the CPU library: all that is not small comes from here. The operating system clears fresh memory, which
// takes longer than the kernel that fills it; so what large tensors give back waits, up to a limit, for the next call
// that wants as much.

#include <cstdint>

namespace norse_fast::cpu {

/// Memory for so many bytes, which begins on a cache line. Throws an error that says how many.
void* allocate(int64_t bytes);
void deallocate(void* data);

/// Memory of a tensor of so many bytes, or null where they are so few that torch's allocator does as well.
void* reserve(int64_t bytes);

/// Takes back what `reserve` gave for so many bytes.
void release(void* data, int64_t bytes);

/// How many bytes wait.
int64_t waiting_bytes();

/// Gives what waits back to the system, and returns how many bytes those were.
int64_t release_waiting();

/// How many bytes may wait; what is over that is given back. Returns the limit of before.
int64_t set_waiting_limit(int64_t bytes);

/// For tests: the k-th allocation from now on fails, once; 0 for none. Returns how many there were since the last call.
int64_t fail_allocation(int64_t k);

}  // namespace norse_fast::cpu
