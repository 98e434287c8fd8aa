// Generated from the contract of `compressor_prefill` by `assay ops --write-headers`. Do not edit.
#pragma once

// pools every window of `ratio` tokens that this step completes: per-channel softmax over time of g + APE, Σ weight·k, RMS norm, RoPE at the window's first position (docs/model.md §10)
struct CompressorPrefillArgs {
  const float* k;              // [T, C*D]: candidates; C = 2 (previous and current half) for ratio 4, else 1
  const float* g;              // [T, C*D]: gates, APE not yet added
  const float* state_k;        // [C*ratio, C*D]: candidates of the tokens before this step
  const float* state_s;        // [C*ratio, C*D]: their scores, APE included
  const float* inv_freq;       // [ceil_div(P, 2)]: compressed rope of the layer
  float* rows;                 // [R, D], written: completed rows, the first one first
  const void* ape;             // weight f16|f32, dims [C*D, ratio], first contiguous: added to the score of a token by its place in the window
  const void* norm;            // weight f32, dims [D], first contiguous: gain of the row norm
  const int* T;                // this step's value, one int
  const int* pos0;             // this step's value, one int
  const int* R;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int D;                       // dimension
  int C;                       // dimension
  int P;                       // dimension
  int ratio;                   // dimension
  float eps;                   // of the row norm
};
