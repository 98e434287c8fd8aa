// Generated from the contract of `attention_indexed` by `assay ops --write-headers`. Do not edit.
#pragma once

// attention of each token over its window and the compressed rows that the indexer chose, with sinks (docs/model.md §11, §12)
struct AttentionIndexedArgs {
  const float* q;              // [T, H, D]: queries
  const float* ring;           // [cap, D]: key = value rows; position p stands in row p mod cap
  const float* comp;           // [C, D]: compressed rows
  const int* ids;              // [T, k]: chosen rows; −1 is none, and rows not visible yet are left out
  float* o;                    // [T, H, D], written: outputs, not yet rotated back
  const void* sinks;           // weight f32, dims [H], first contiguous: a logit per head that has no value
  const int* T;                // this step's value, one int
  const int* pos0;             // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int H;                       // dimension
  int D;                       // dimension
  int cap;                     // dimension
  int C;                       // dimension
  int k;                       // dimension
  int window;                  // dimension
  int ratio;                   // dimension
  float scale;                 // 1/sqrt(D)
};
