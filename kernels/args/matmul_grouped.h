// Generated from the contract of `matmul_grouped` by `assay ops --write-headers`. Do not edit.
#pragma once

// y[t, g·N + n] = Σ_k w[g·N + n][k] · x[t, g·K + k]: each group of heads has its own rows (docs/model.md §12)
struct MatmulGroupedArgs {
  const float* x;              // [T, G, K]: attention output by group
  float* y;                    // [T, G, N], written: low-rank output
  const void* w;               // weight f16|f32|q8_0, dims [K, G*N], first contiguous: block-diagonal projection
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int G;                       // dimension
  int K;                       // dimension
  int N;                       // dimension
};
