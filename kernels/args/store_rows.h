// Generated from the contract of `store_rows` by `assay ops --write-headers`. Do not edit.
#pragma once

// cache[(row0 + i) mod cap, :] = x[i, :], rounded to f16 values when round_f16 (docs/model.md §8, §17.4)
struct StoreRowsArgs {
  const float* x;              // [R, D]: new rows, all finite
  float* cache;                // [cap, D], updated in place: ring of key/value rows, or list of compressed rows
  const int* R;                // this step's value, one int
  const int* row0;             // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int D;                       // dimension
  int cap;                     // dimension
  int round_f16;               // 1: values pass through f16, round to nearest even: ±inf from ±65520 on
};
