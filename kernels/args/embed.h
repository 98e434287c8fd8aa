// Generated from the contract of `embed` by `assay ops --write-headers`. Do not edit.
#pragma once

// H[t, s, :] = table[ids[t], :] for every stream s (docs/model.md §4)
struct EmbedArgs {
  const int* ids;              // [T]: token ids, each < V
  float* h;                    // [T, S, D], written: residual streams
  const void* table;           // weight f16|f32|q8_0, dims [D, V], first contiguous: token embedding
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int D;                       // dimension
  int S;                       // dimension
  int V;                       // dimension
};
