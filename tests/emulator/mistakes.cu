// One mistake an entry; tests/emulator.rs says which report each must give, and on which line (marked by its name).
#include "common/async.cuh"
#include "common/cuda.cuh"
#include "common/mma.cuh"

struct Args {
  const float* in;
  float* out;
  int n;
};

// Threads below n leave the loop one barrier early.
extern "C" __global__ void barrier_left_early(const Args p) {
  for (int i = 0; i < 4; i++) {
    if (i == 3 && (int)threadIdx.x < p.n) return;
    __syncthreads();  // barrier_left_early
  }
}

extern "C" __global__ void barrier_in_branch(const Args p) {
  if ((int)threadIdx.x < p.n) __syncthreads();  // barrier_in_branch
  p.out[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_sites(const Args p) {
  if ((int)threadIdx.x < p.n)
    __syncthreads();  // barrier_sites
  else
    __syncthreads();
  p.out[threadIdx.x] = 1;
}

extern "C" __global__ void shuffle_masks(const Args p) {
  unsigned mask = threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u;
  p.out[threadIdx.x] = __shfl_xor_sync(mask, 1.0f, 1);  // shuffle_masks
}

extern "C" __global__ void shuffle_not_named(const Args p) {
  p.out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 0);  // shuffle_not_named
}

extern "C" __global__ void shuffle_after_return(const Args p) {
  if ((int)threadIdx.x >= p.n) return;
  p.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);  // shuffle_after_return
}

extern "C" __global__ void shuffle_in_branch(const Args p) {
  float v = 0;
  if ((int)threadIdx.x < p.n) v = __shfl_xor_sync(0xffffffffu, 1.0f, 1);  // shuffle_in_branch
  __syncthreads();
  p.out[threadIdx.x] = v;
}

// Half of warp 0 waits for the other half, which waits at the block's barrier.
extern "C" __global__ void deadlock(const Args p) {
  if (threadIdx.x < 32) {
    if (threadIdx.x < 16) __syncwarp(0x0000ffffu), __syncthreads();  // deadlock
    else __syncwarp(0xffff0000u), __syncwarp(0xffffffffu);
  } else {
    __syncthreads();
  }
  p.out[threadIdx.x] = 1;
}

extern "C" __global__ void read_past_end(const Args p) {
  if ((int)threadIdx.x <= p.n) p.out[0] += p.in[threadIdx.x];  // read_past_end
}

extern "C" __global__ void write_past_end(const Args p) {
  if ((int)threadIdx.x <= p.n) p.out[threadIdx.x] = 1;
}

extern "C" __global__ void write_before_start(const Args p) { p.out[-1 - (int)threadIdx.x] = 1; }

extern "C" __global__ void null_pointer(const Args p) { p.out[threadIdx.x] = p.in[threadIdx.x]; }

extern "C" __global__ void wild_pointer(const Args p) {
  p.out[threadIdx.x] = ((const float*)0x5a5a5a5a0000ull)[threadIdx.x];
}

extern "C" __global__ void dynamic_shared_past_end(const Args p) {
  DYN_SHARED(float, s);
  s[threadIdx.x] = 1;
  __syncthreads();
  p.out[threadIdx.x] = s[threadIdx.x + p.n];
}

extern "C" __global__ void static_shared_past_end(const Args p) {
  __shared__ float s[64];
  s[threadIdx.x] = 1;
  __syncthreads();
  p.out[threadIdx.x] = s[threadIdx.x + p.n];  // static_shared_past_end
}

extern "C" __global__ void local_past_end(const Args p) {
  float local[4];
  for (int i = 0; i <= p.n; i++) local[i] = p.in[i];  // local_past_end
  p.out[threadIdx.x] = local[threadIdx.x & 3];
}

extern "C" __global__ void misaligned(const Args p) {
  float4 v = *(const float4*)(p.in + 1);  // misaligned
  p.out[threadIdx.x] = v.x;
}

extern "C" __global__ void copy_never_waited(const Args p) {
  DYN_SHARED(float, s);
  cp_async_16(s + 4 * threadIdx.x, p.in + 4 * (threadIdx.x % 16));  // copy_never_waited
  cp_async_commit();
  __syncthreads();
  p.out[threadIdx.x] = s[4 * threadIdx.x];
}

// The last group is left under way: the wait allows one.
extern "C" __global__ void copy_waited_too_little(const Args p) {
  DYN_SHARED(float, s);
  for (int i = 0; i < 2; i++) {
    cp_async_16(s + 4 * (threadIdx.x + 64 * i), p.in + 4 * (threadIdx.x % 16));  // copy_waited_too_little
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  p.out[threadIdx.x] = s[4 * threadIdx.x];
}

// Reads before the wait: no report, but NaN.
extern "C" __global__ void copy_read_early(const Args p) {
  DYN_SHARED(float, s);
  cp_async_16(s + 4 * threadIdx.x, p.in + 4 * (threadIdx.x % 16));
  cp_async_commit();
  p.out[threadIdx.x] = s[4 * threadIdx.x];
  cp_async_wait<0>();
}

extern "C" __global__ void copy_misaligned(const Args p) {
  DYN_SHARED(float, s);
  cp_async_16(s + 4 * threadIdx.x, p.in + 1);  // copy_misaligned
  cp_async_wait<0>();
}

// Without a barrier between the write and the neighbour's read.
extern "C" __global__ void missing_barrier(const Args p) {
  __shared__ float s[64];
  s[threadIdx.x] = p.in[threadIdx.x];
  p.out[threadIdx.x] = s[(threadIdx.x + 33) % 64];
}

extern "C" __global__ void endless(const Args p) {
  volatile int go = 1;
  while (go) {
  }
  p.out[0] = 1;
}

extern "C" __global__ void endless_barriers(const Args p) {
  for (;;) __syncthreads();
}

extern "C" __global__ void spins_for_another_warp(const Args p) {
  volatile float* flag = p.out;
  if (threadIdx.x == 32) *flag = 1;
  if (threadIdx.x == 0)
    while (*flag == 0) __nanosleep(100);
}

extern "C" __global__ void divides_by_zero(const Args p) { 
  p.out[0] = ((int)threadIdx.x + 7) / p.n;  // divides_by_zero
}

extern "C" __global__ void asserts(const Args p) {
  assert(p.n == 0);  // asserts
}

__device__ __noinline__ float descend(const float* in, int n) {
  volatile float local[64];
  for (int i = 0; i < 64; i++) local[i] = in[0];
  return n == 0 ? local[3] : descend(in, n - 1) + local[n & 63];
}
extern "C" __global__ void stack_overflow(const Args p) { p.out[0] = descend(p.in, 1 << 20); }

extern "C" __global__ void uninitialised_shared(const Args p) {
  __shared__ float s[64];
  p.out[threadIdx.x] = s[threadIdx.x];
  s[threadIdx.x] = 1;
}
