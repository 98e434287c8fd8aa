// Generated from the contract of `hadamard_fp4_round_trip` by `assay ops --write-headers`. Do not edit.
#pragma once

// 128-point Walsh–Hadamard / sqrt(128), then E2M1 with a power-of-two scale per 32 (docs/model.md §11.1)
struct HadamardFp4RoundTripArgs {
  float* x;                    // [R, H, D], updated in place: indexer queries or rows; D = 128
  const int* R;                // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int H;                       // dimension
  int D;                       // dimension
};
