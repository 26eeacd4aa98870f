#pragma once
// Memory for large tensors on the CPU. The operating system clears fresh memory, which takes longer than the kernel
// that fills it; so what is given back waits, up to a limit, for the next call that wants as much.

#include <cstdint>

namespace norse_fast::cpu {

/// Memory for so many bytes, or null where they are so few that torch's allocator does as well.
void* reserve(int64_t bytes);

/// Takes back what `reserve` gave for so many bytes.
void release(void* data, int64_t bytes);

}  // namespace norse_fast::cpu
