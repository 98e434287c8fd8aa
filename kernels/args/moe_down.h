// Generated from the contract of `moe_down` by `assay ops --write-headers`. Do not edit.
#pragma once

// y[t, :] = Σ_u down of expert sel[t, u] times mid[t, u, :] (docs/model.md §13)
struct MoeDownArgs {
  const float* mid;            // [T, U, F]: weighted hidden activations
  const int* sel;              // [T, U]: experts, each < E
  float* y;                    // [T, N], written: sum over the chosen experts
  const void* down;            // weight iq2_xxs|q2_k|q4_k|q8_0, dims [F, N, E], first contiguous: down projections, experts outermost
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int F;                       // dimension
  int N;                       // dimension
  int E;                       // dimension
  int U;                       // dimension
};
