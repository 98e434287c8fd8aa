// Generated from the contract of `matmul` by `assay ops --write-headers`. Do not edit.
#pragma once

// y[t, n] = Σ_k w[n][k] · x[t, k] (docs/model.md §2.4 for the blocks)
struct MatmulArgs {
  const float* x;              // [T, K]: activations
  float* y;                    // [T, N], written: products
  const void* w;               // weight f16|f32|q8_0, dims [K, N], first contiguous: projection
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int K;                       // dimension
  int N;                       // dimension
};
