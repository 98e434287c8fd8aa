// Generated from the contract of `router_topk` by `assay ops --write-headers`. Do not edit.
#pragma once

// sel = the U largest of P + bias, P = sqrt(softplus(logits)); w = P[sel] / Σ · scale (docs/model.md §13)
struct RouterTopkArgs {
  const float* logits;         // [T, E]: router products
  int* sel;                    // [T, U], written: experts, best first; of equals the lower wins
  float* w;                    // [T, U], written: their weights, from P without bias
  const void* bias;            // weight f32, dims [E], first contiguous, may be null: added for the selection alone
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int E;                       // dimension
  int U;                       // dimension
  float scale;                 // of the normalised weights
  float floor;                 // least divisor
  int normalise;               // 1: divide by the sum
};
