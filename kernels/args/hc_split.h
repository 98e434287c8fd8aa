// Generated from the contract of `hc_split` by `assay ops --write-headers`. Do not edit.
#pragma once

// split = (sigmoid + eps, 2·sigmoid, Sinkhorn of the S×S rest) of mix·scale + base (docs/model.md §5)
struct HcSplitArgs {
  const float* mix;            // [T, 2*S+S*S]: hyper-connection logits: pre, post, combine row by row
  float* split;                // [T, 2*S+S*S], written: pre, post, combine C[r][c]
  const void* scale;           // weight f32, dims [3], first contiguous: of pre, post, combine
  const void* base;            // weight f32, dims [2*S+S*S], first contiguous: added after scaling
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int S;                       // dimension
  float eps;                   // of sigmoid and of the normalisers
  int iterations;              // Sinkhorn iterations
};
