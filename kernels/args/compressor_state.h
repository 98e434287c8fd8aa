// Generated from the contract of `compressor_state` by `assay ops --write-headers`. Do not edit.
#pragma once

// brings the compressor's state from position pos0 to pos0 + T (docs/model.md §10)
struct CompressorStateArgs {
  const float* k;              // [T, C*D]: candidates
  const float* g;              // [T, C*D]: gates, APE not yet added
  float* state_k;              // [C*ratio, C*D], updated in place: candidates of the last tokens
  float* state_s;              // [C*ratio, C*D], updated in place: their scores, APE included
  const void* ape;             // weight f16|f32, dims [C*D, ratio], first contiguous: added to the score by place in the window
  const int* T;                // this step's value, one int
  const int* pos0;             // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int D;                       // dimension
  int C;                       // dimension
  int ratio;                   // dimension
};
