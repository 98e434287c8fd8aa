// Generated from the contract of `indexer_topk` by `assay ops --write-headers`. Do not edit.
#pragma once

// ids[t, :] = the min(k, visible) rows of highest score, ascending, then −1; of equal scores the lower row wins (docs/model.md §11)
struct IndexerTopkArgs {
  const float* s;              // [T, C]: scores; rows beyond (pos0 + t + 1)/4 are not looked at
  int* ids;                    // [T, k], written: row numbers, ascending, padded with −1
  const int* T;                // this step's value, one int
  const int* pos0;             // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int C;                       // dimension
  int k;                       // dimension
};
