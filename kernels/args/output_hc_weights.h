// Generated from the contract of `output_hc_weights` by `assay ops --write-headers`. Do not edit.
#pragma once

// w[r, s] = sigmoid(p[r, s]·scale[0] + base[s]) + eps (docs/model.md §5, output head)
struct OutputHcWeightsArgs {
  const float* p;              // [R, S]: output_hc_fn products
  float* w;                    // [R, S], written: stream weights
  const void* scale;           // weight f32, dims [1], first contiguous: of all streams
  const void* base;            // weight f32, dims [S], first contiguous: per stream
  const int* R;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int S;                       // dimension
  float eps;                   // added to the sigmoid
};
