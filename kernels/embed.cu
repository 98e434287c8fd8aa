// embed: H[t, s, :] = table[ids[t], :] for every stream s (docs/model.md §4).
//
// One block per token: a row is read once, dequantised and written to all streams. The values are the table's own,
// scale · q rounded once, so outputs match the oracle bit for bit.
#include "common/cuda.cuh"

#include "args/embed.h"
#include "quant/plain.cuh"
#include "quant/q8_0.cuh"

template <class W>
__device__ inline void embed(const EmbedArgs& a) {
  const int token = blockIdx.x;
  if (token >= *a.T) return;
  // Ids are checked where a prompt enters; one past the table reads row 0 instead of memory that is not ours.
  const int id = a.ids[token];
  const u8* row = weight_row<W>(a.table, id >= 0 && id < a.V ? id : 0, a.D);
  float* h = a.h + static_cast<long long>(token) * a.S * a.D;
  for (int e = threadIdx.x * 16; e < a.D; e += blockDim.x * 16) {
    float q[16], scale, min;
    W::floats(W::load(row, e, a.D), q, scale, min);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 v = make_float4(scale * q[4 * i], scale * q[4 * i + 1], scale * q[4 * i + 2], scale * q[4 * i + 3]);
      for (int s = 0; s < a.S; ++s) store4(h + static_cast<long long>(s) * a.D, e + 4 * i, a.D, v);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) embed_f16(const EmbedArgs a) { embed<F16>(a); }
extern "C" __global__ void __launch_bounds__(256) embed_f32(const EmbedArgs a) { embed<F32>(a); }
extern "C" __global__ void __launch_bounds__(256) embed_q8_0(const EmbedArgs a) { embed<Q8_0>(a); }
