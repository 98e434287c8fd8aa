// Generated from the contract of `rope_tail` by `assay ops --write-headers`. Do not edit.
#pragma once

// rotates the pairs (2i, 2i+1) of the last P dims of every head by (pos0 + t)·inv_freq[i], back when inverse (docs/model.md §9)
struct RopeTailArgs {
  float* x;                    // [T, H, D], updated in place: queries, keys or attention output
  const float* inv_freq;       // [ceil_div(P, 2)]: angle per position of each pair, YaRN included
  const int* T;                // this step's value, one int
  const int* pos0;             // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int H;                       // dimension
  int D;                       // dimension
  int P;                       // dimension
  int inverse;                 // 1: rotate back
};
