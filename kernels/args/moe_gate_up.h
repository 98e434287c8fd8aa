// Generated from the contract of `moe_gate_up` by `assay ops --write-headers`. Do not edit.
#pragma once

// mid[t, u, :] = silu(min(g, clamp)) · clamp(u, ±clamp) · w[t, u], g and u = gate and up of expert sel[t, u] times x[t] (docs/model.md §13)
struct MoeGateUpArgs {
  const float* x;              // [T, K]: normed sublayer input
  const int* sel;              // [T, U]: experts, each < E
  const float* w;              // [T, U]: router weights
  float* mid;                  // [T, U, F], written: weighted hidden activations, one row for each token and chosen expert
  const void* gate;            // weight iq2_xxs|q2_k|q4_k|q8_0, dims [K, F, E], first contiguous: gate projections, experts outermost
  const void* up;              // weight iq2_xxs|q2_k|q4_k|q8_0, dims [K, F, E], first contiguous: up projections
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int K;                       // dimension
  int F;                       // dimension
  int E;                       // dimension
  int U;                       // dimension
  float clamp;                 // SwiGLU clamp
};
