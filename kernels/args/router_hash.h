// Generated from the contract of `router_hash` by `assay ops --write-headers`. Do not edit.
#pragma once

// sel = table[ids[t]]; w = P[sel] / Σ · scale, P = sqrt(softplus(logits)) (docs/model.md §13)
struct RouterHashArgs {
  const float* logits;         // [T, E]: router products
  const int* ids;              // [T]: token ids, each < V
  int* sel;                    // [T, U], written: experts in the table's order
  float* w;                    // [T, U], written: their weights
  const void* table;           // weight i32, dims [U, V], first contiguous: experts of every token id
  const int* T;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int E;                       // dimension
  int U;                       // dimension
  int V;                       // dimension
  float scale;                 // of the normalised weights
  float floor;                 // least divisor
  int normalise;               // 1: divide by the sum
};
