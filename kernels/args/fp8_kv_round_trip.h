// Generated from the contract of `fp8_kv_round_trip` by `assay ops --write-headers`. Do not edit.
#pragma once

// rounds the first D − P dims to E4M3 with a power-of-two scale per 64; the P rotary dims stay (docs/model.md §8.1)
struct Fp8KvRoundTripArgs {
  float* x;                    // [R, D], updated in place: key/value rows or compressed rows, all finite
  const int* R;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int D;                       // dimension
  int P;                       // dimension
};
