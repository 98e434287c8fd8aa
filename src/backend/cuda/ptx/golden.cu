// Stores of every kind, and kernels that only look as if they stored. golden.ptx is this file, compiled.
struct XArgs { const float* x; float* out; const int* T; unsigned char* scratch; int K; };

__device__ float sink[32];
__device__ __noinline__ void put(float* o, float v) { if (v > 0) *o = v; }
__device__ __noinline__ float get(const float* o) { return *o * 2; }
extern "C" __global__ void honest(const XArgs a) {
  const float* p = a.x; float* o = a.out + blockIdx.x * a.K;
  for (int i = threadIdx.x; i < *a.T; i += 32) { *o = p[i] + 1.f; o += 7; }
}
extern "C" __global__ void no_store(const XArgs a) { float s = 0; for (int i = 0; i < a.K; i++) s += a.x[i]; if (s > 1e30f) __nanosleep(1); }
extern "C" __global__ void wrong_member(const XArgs a) { ((float*)a.x)[*a.T * a.K + threadIdx.x] = 1.f; }
extern "C" __global__ void to_scratch(const XArgs a) { ((float*)a.scratch)[a.T[0]] = 1.f; }
extern "C" __global__ void to_variable(const XArgs a) { sink[threadIdx.x] = a.x[0]; }
extern "C" __global__ void to_shared(const XArgs a) { __shared__ float s[64]; s[threadIdx.x] = a.x[0]; __syncthreads(); s[63-threadIdx.x] = s[threadIdx.x] ; __syncthreads(); if (s[3] > 1e30f) __nanosleep(1);}
extern "C" __global__ void by_call(const XArgs a) { put(a.out + threadIdx.x, a.x[0]); }
extern "C" __global__ void by_call_nothing(const XArgs a) { if (get(a.out) > 1e30f) __nanosleep(1); }
extern "C" __global__ void chosen(const XArgs a) { float* t[2] = { (float*)a.scratch, a.out }; t[a.T[0] & 1][threadIdx.x] = a.x[0]; }
extern "C" __global__ void pointer_in_shared(const XArgs a) { __shared__ float* s[2]; s[threadIdx.x] = a.out; __syncthreads(); *s[1-threadIdx.x] = 1.f; }
extern "C" __global__ void by_atomic(const XArgs a) { atomicAdd(a.out, a.x[0]); }
extern "C" __global__ void by_asm(const XArgs a) { asm volatile("{ .reg .b32 t; mov.b32 t, 3; st.global.b32 [%0], t; }" :: "l"(a.out)); }
extern "C" __global__ void dead(const XArgs a) { if (sizeof(XArgs) == 1) a.out[0] = 1; }
extern "C" __global__ void vec(const XArgs a) { reinterpret_cast<float4*>(a.out)[threadIdx.x] = reinterpret_cast<const float4*>(a.x)[threadIdx.x]; }
