// Asynchronous copies from global to shared memory, 16 bytes each (sm_80 and later).
//
// The emulator is stricter than a GPU: from issue until the wait the 16 bytes in shared memory hold 0xFF (NaN in every
// float type), so reading early, or overwriting what others still read, shows; and a thread that returns while a copy
// was never waited for is an error.
#pragma once
#include "common/cuda.cuh"

#ifdef ASSAY_EMULATOR

inline void cp_async_16_or_zero(void* smem, const void* global, bool valid, const char* file = __builtin_FILE(),
                                int line = __builtin_LINE()) {
  assay_host->copy(assay_self, smem, global, valid ? 16 : 0, AssaySite{file, line});
}
inline void cp_async_16(void* smem, const void* global, const char* file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
  assay_host->copy(assay_self, smem, global, 16, AssaySite{file, line});
}
inline void cp_async_commit() { assay_host->commit(assay_self); }
template <int N>
inline void cp_async_wait() {
  assay_host->wait(assay_self, N);
}

#else

// Copies 16 bytes; `valid` false writes zeros and does not read `global` (which must still be a valid address).
__device__ __forceinline__ void cp_async_16_or_zero(void* smem, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(smem)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_16(void* smem, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(smem)), "l"(global)
               : "memory");
}
// Closes this thread's current group of copies.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the N newest groups of this thread are under way. Other threads' copies need a barrier as well.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
