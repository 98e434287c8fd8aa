// Generated from the contract of `take_rows` by `assay ops --write-headers`. Do not edit.
#pragma once

// y = the last R of the T rows of x: the head computes no more than is asked for (docs/model.md §14)
struct TakeRowsArgs {
  const float* x;              // [T, D]: residual streams of all tokens
  float* y;                    // [R, D], written: those of the last R
  const int* T;                // this step's value, one int
  const int* R;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int D;                       // dimension
};
