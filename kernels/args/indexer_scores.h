// Generated from the contract of `indexer_scores` by `assay ops --write-headers`. Do not edit.
#pragma once

// s[t, w] = Σ_h iw[t, h] · scale · max(0, iq[t, h, :]·idx[w, :]) for w < (pos0 + t + 1)/4, else −inf (docs/model.md §11)
struct IndexerScoresArgs {
  const float* iq;             // [T, H, D]: indexer queries
  const float* iw;             // [T, H]: head weights, may be negative
  const float* idx;            // [C, D]: indexer rows
  float* s;                    // [T, C], written: scores; −inf where row w is not visible to token t
  const int* T;                // this step's value, one int
  const int* pos0;             // this step's value, one int
  unsigned char* scratch;      // as many bytes as the manifest asks for; null when none
  int H;                       // dimension
  int D;                       // dimension
  int C;                       // dimension
  float scale;                 // 1/sqrt(D·H)
};
