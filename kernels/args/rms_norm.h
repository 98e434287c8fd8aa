// Generated from the contract of `rms_norm` by `assay ops --write-headers`. Do not edit.
#pragma once

// y[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · w, w = 1 when absent (docs/model.md §6)
struct RmsNormArgs {
  const float* x;              // [R, D]: rows
  float* y;                    // [R, D], written: normalised rows
  const void* w;               // weight f32, dims [D], first contiguous, may be null: gain
  const int* R;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int D;                       // dimension
  float eps;                   // added to the mean square
};
