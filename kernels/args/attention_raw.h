// Generated from the contract of `attention_raw` by `assay ops --write-headers`. Do not edit.
#pragma once

// attention of each token over its window of ring rows, with sinks (docs/model.md §12, ratio 0)
struct AttentionRawArgs {
  const float* q;              // [T, H, D]: queries
  const float* ring;           // [cap, D]: key = value rows; position p stands in row p mod cap
  float* o;                    // [T, H, D], written: outputs, not yet rotated back
  const void* sinks;           // weight f32, dims [H], first contiguous: a logit per head that has no value
  const int* T;                // this step's value, one int
  const int* pos0;             // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int H;                       // dimension
  int D;                       // dimension
  int cap;                     // dimension
  int window;                  // dimension
  float scale;                 // 1/sqrt(D)
};
