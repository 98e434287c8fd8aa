// Generated from the contract of `hc_expand` by `assay ops --write-headers`. Do not edit.
#pragma once

// H'[t, j, d] = post[j]·(y + y2)[t, d] + Σ_i C[i][j]·H[t, i, d]: the combine matrix is used transposed (docs/model.md §5)
struct HcExpandArgs {
  const float* y;              // [T, D]: sublayer output
  const float* y2;             // [T, D], may be null: second sublayer output to add
  const float* split;          // [T, 2*S+S*S]: pre, post, combine of hc_split
  float* h;                    // [T, S, D], updated in place: residual streams
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int S;                       // dimension
  int D;                       // dimension
};
