// Generated from the contract of `hc_weighted_sum` by `assay ops --write-headers`. Do not edit.
#pragma once

// x[t, d] = Σ_s w[t, s] · H[t, s, d]; w rows are W apart, the first S of each are used (docs/model.md §5)
struct HcWeightedSumArgs {
  const float* h;              // [R, S, D]: residual streams
  const float* w;              // [R, W]: stream weights first in each row
  float* x;                    // [R, D], written: sublayer input
  const int* R;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int S;                       // dimension
  int D;                       // dimension
  int W;                       // dimension
};
