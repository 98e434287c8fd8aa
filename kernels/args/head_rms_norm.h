// Generated from the contract of `head_rms_norm` by `assay ops --write-headers`. Do not edit.
#pragma once

// x[t, h, :] /= sqrt(mean(x[t, h, :]²) + eps), per head, no gain (docs/model.md §6, §7)
struct HeadRmsNormArgs {
  float* x;                    // [T, H, D], updated in place: queries
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int H;                       // dimension
  int D;                       // dimension
  float eps;                   // added to the mean square
};
