// What changes from step to step. Kernels get pointers to single fields of it (`const int* T`), never the values, so
// that a captured graph replays unchanged. The order of the fields is `plan::StepField`'s.
#pragma once

struct StepState {
  int n_tokens;    // tokens of this step
  int pos0;        // position of the first of them
  int n_outputs;   // rows that the head computes: the last n_outputs tokens
  int rows4;       // compressed rows that this step completes in ratio-4 layers
  int row0_4;      // index of the first of them = pos0 / 4
  int rows128;     // same for ratio-128 layers
  int row0_128;
};
