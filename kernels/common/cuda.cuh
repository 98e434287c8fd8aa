// The header every kernel includes first: CUDA C++ for NVRTC, and the same names for the CPU emulator.
//
// A kernel never asks which of the two compiles it. Whatever differs (inline PTX, dynamic shared memory) has one name
// here or in mma.cuh and async.cuh, with both definitions side by side.
#pragma once

#ifdef ASSAY_EMULATOR
#include "emu/cuda.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;

// Dynamic shared memory of the launch as `T* name`, 16-byte aligned. `extern __shared__` cannot be emulated, and two
// declarations of it with different types clash on the device; this does neither.
#ifdef ASSAY_EMULATOR
#define DYN_SHARED(T, name) T* const name = reinterpret_cast<T*>(assay_self->block->dynamic_shared)
#else
#define DYN_SHARED(T, name)                                        \
  extern __shared__ __align__(16) unsigned char assay_dyn_shared[]; \
  T* const name = reinterpret_cast<T*>(assay_dyn_shared)
#endif
