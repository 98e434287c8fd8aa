// Generated from the contract of `swiglu` by `assay ops --write-headers`. Do not edit.
#pragma once

// h = silu(min(g, clamp)) · clamp(u, ±clamp) (docs/model.md §13, shared expert)
struct SwigluArgs {
  const float* g;              // [T, F]: gate products
  const float* u;              // [T, F]: up products
  float* h;                    // [T, F], written: hidden activations
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int F;                       // dimension
  float clamp;                 // of gate (above) and up (both sides)
};
