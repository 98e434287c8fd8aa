// CUDA C++ for the host compiler: what a kernel sees when the CPU emulator runs it.
//
// One coroutine per CUDA thread; everything that makes threads wait for each other goes through `assay_host`, which the
// emulator (src/backend/emulator/) fills in. No system header is included: a kernel sees CUDA's names and no others.
//
// Where C++ leaves a choice: no multiply-add contraction (the device contracts a*b+c unless the kernel writes
// __fmul_rn or fmaf), denormals kept as on the device, the fast-math intrinsics (__expf, ...) lose as many bits as theirs.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// A block stays on one operating-system thread, and that runs one block at a time.
#define __shared__ static thread_local
#define __assume(x) ((x) ? void() : __builtin_unreachable())
#define __builtin_assume(x) __assume(x)

typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
#ifndef NULL
#define NULL 0
#endif

#include "emu/vector.h"

// ---- shared with src/backend/emulator/abi.rs, field by field ----

struct AssaySite {
  const char* file;
  int line;
};

struct AssayBlock {
  uint3 index;
  dim3 dim;
  dim3 grid;
  unsigned char* dynamic_shared;
};

struct AssayThread {
  uint3 index;
  unsigned linear;
  AssayBlock* block;
};

// Runs once for a whole warp, when the last lane of `mask` has arrived; operands[lane] is that lane's operand.
typedef void (*AssayCombine)(void* const* operands, unsigned mask);

enum AssayBarrier { ASSAY_SYNC, ASSAY_COUNT, ASSAY_AND, ASSAY_OR };

struct AssayHost {
  int (*barrier)(AssayThread*, int kind, int value, AssaySite);
  void (*warp)(AssayThread*, unsigned mask, AssayCombine, void* operand, AssaySite);
  unsigned (*active)(AssayThread*);
  void (*yield)(AssayThread*);
  void (*copy)(AssayThread*, void* shared, const void* global, int bytes, AssaySite);
  void (*commit)(AssayThread*);
  void (*wait)(AssayThread*, int newest);
  void (*fail)(AssayThread*, const char* kind, const char* text, AssaySite);
};

static const AssayHost* assay_host;
static thread_local AssayThread* assay_self;

#define ASSAY_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define ASSAY_AT \
  AssaySite { file, line }

#define threadIdx (assay_self->index)
#define blockIdx (assay_self->block->index)
#define blockDim (assay_self->block->dim)
#define gridDim (assay_self->block->grid)
static constexpr int warpSize = 32;

// ---- barriers and fences ----

inline void __syncthreads(ASSAY_HERE) { assay_host->barrier(assay_self, ASSAY_SYNC, 0, ASSAY_AT); }
inline int __syncthreads_count(int p, ASSAY_HERE) { return assay_host->barrier(assay_self, ASSAY_COUNT, p, ASSAY_AT); }
inline int __syncthreads_and(int p, ASSAY_HERE) { return assay_host->barrier(assay_self, ASSAY_AND, p, ASSAY_AT); }
inline int __syncthreads_or(int p, ASSAY_HERE) { return assay_host->barrier(assay_self, ASSAY_OR, p, ASSAY_AT); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __nanosleep(unsigned) { assay_host->yield(assay_self); }
inline void __trap(ASSAY_HERE) { assay_host->fail(assay_self, "trap", "__trap() was called", ASSAY_AT); }
inline long long clock64() { return 0; }
// Compiles and prints nothing: a worker has no output of its own.
inline int printf(const char*, ...) { return 0; }
#define assert(x) ((x) ? void() : assay_host->fail(assay_self, "trap", "assert(" #x ") failed", AssaySite{__FILE__, __LINE__}))

inline size_t __cvta_generic_to_shared(const void* p) { return reinterpret_cast<size_t>(p); }

#include "emu/math.h"

#include "emu/half.h"

#include "emu/warp.h"

#include "emu/atomic.h"
