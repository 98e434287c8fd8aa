// Warp-wide operations. Each lane leaves its operand on its own stack; the last lane of the mask to arrive computes all
// results. The host refuses lanes that name different masks, stand at different lines, or have returned.
#pragma once

template <class T>
struct AssayShuffle {
  T value;
  T result;
  int source;  // lane to read, or this lane where the source is out of the segment
};

template <class T>
inline void assay_shuffle_combine(void* const* lanes, unsigned mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask >> lane & 1)) continue;
    AssayShuffle<T>* me = (AssayShuffle<T>*)lanes[lane];
    // The device leaves a read from a lane outside the mask undefined; NaN bits make it visible.
    if (mask >> me->source & 1) me->result = ((AssayShuffle<T>*)lanes[me->source])->value;
    else __builtin_memset((void*)&me->result, 0xff, sizeof(T));
  }
}

template <class T>
inline T assay_shuffle(unsigned mask, T value, int source, AssaySite at) {
  AssayShuffle<T> op{value, value, source};
  assay_host->warp(assay_self, mask, assay_shuffle_combine<T>, &op, at);
  return op.result;
}

template <class T>
inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32, ASSAY_HERE) {
  int me = assay_self->linear & 31;
  return assay_shuffle(mask, v, (me & ~(width - 1)) | (lane & (width - 1)), ASSAY_AT);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, ASSAY_HERE) {
  int me = assay_self->linear & 31, from = me ^ bits;
  return assay_shuffle(mask, v, from < (me & ~(width - 1)) + width ? from : me, ASSAY_AT);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, ASSAY_HERE) {
  int me = assay_self->linear & 31, from = me + (int)by;
  return assay_shuffle(mask, v, from < (me & ~(width - 1)) + width ? from : me, ASSAY_AT);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, ASSAY_HERE) {
  int me = assay_self->linear & 31, from = me - (int)by;
  return assay_shuffle(mask, v, from >= (me & ~(width - 1)) ? from : me, ASSAY_AT);
}

// value in, result out, the same for every lane
template <class T>
struct AssayReduce {
  T value;
  T result;
};
template <class T, class F>
inline void assay_reduce_combine(void* const* lanes, unsigned mask) {
  T acc = F::first();
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) acc = F::next(acc, ((AssayReduce<T>*)lanes[lane])->value, lane);
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) ((AssayReduce<T>*)lanes[lane])->result = acc;
}
template <class T, class F>
inline T assay_reduce(unsigned mask, T value, AssaySite at) {
  AssayReduce<T> op{value, value};
  assay_host->warp(assay_self, mask, assay_reduce_combine<T, F>, &op, at);
  return op.result;
}

#define ASSAY_FOLD(Name, start, expr)                         \
  template <class T>                                          \
  struct Name {                                               \
    static T first() { return (T)(start); }                   \
    static T next(T a, T v, int lane) { return (void)lane, (T)(expr); } \
  };
ASSAY_FOLD(AssayBallot, 0, v ? a | 1u << lane : a)
ASSAY_FOLD(AssayAdd, 0, a + v)
ASSAY_FOLD(AssayAnd, ~(T)0, a & v)
ASSAY_FOLD(AssayOr, 0, a | v)
ASSAY_FOLD(AssayXor, 0, a ^ v)
ASSAY_FOLD(AssayMin, sizeof(T) && (T)-1 < (T)0 ? (T)0x7fffffff : ~(T)0, v < a ? v : a)
ASSAY_FOLD(AssayMax, sizeof(T) && (T)-1 < (T)0 ? (T)0x80000000 : (T)0, a < v ? v : a)
#undef ASSAY_FOLD

inline unsigned __ballot_sync(unsigned mask, int p, ASSAY_HERE) {
  return assay_reduce<unsigned, AssayBallot<unsigned>>(mask, p != 0, ASSAY_AT);
}
inline int __any_sync(unsigned mask, int p, ASSAY_HERE) {
  return assay_reduce<unsigned, AssayOr<unsigned>>(mask, p != 0, ASSAY_AT) != 0;
}
inline int __all_sync(unsigned mask, int p, ASSAY_HERE) {
  return assay_reduce<unsigned, AssayAnd<unsigned>>(mask, p != 0, ASSAY_AT) != 0;
}
#define ASSAY_REDUCE(name, T, F) \
  inline T name(unsigned mask, T v, ASSAY_HERE) { return assay_reduce<T, F<T>>(mask, v, ASSAY_AT); }
ASSAY_REDUCE(__reduce_add_sync, int, AssayAdd)
ASSAY_REDUCE(__reduce_add_sync, unsigned, AssayAdd)
ASSAY_REDUCE(__reduce_min_sync, int, AssayMin)
ASSAY_REDUCE(__reduce_min_sync, unsigned, AssayMin)
ASSAY_REDUCE(__reduce_max_sync, int, AssayMax)
ASSAY_REDUCE(__reduce_max_sync, unsigned, AssayMax)
ASSAY_REDUCE(__reduce_and_sync, unsigned, AssayAnd)
ASSAY_REDUCE(__reduce_or_sync, unsigned, AssayOr)
ASSAY_REDUCE(__reduce_xor_sync, unsigned, AssayXor)
#undef ASSAY_REDUCE

template <class T>
struct AssayMatch {
  T value;
  unsigned result;
};
template <class T>
inline void assay_match_combine(void* const* lanes, unsigned mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask >> lane & 1)) continue;
    AssayMatch<T>* me = (AssayMatch<T>*)lanes[lane];
    for (int other = 0; other < 32; other++)
      if (mask >> other & 1 && ((AssayMatch<T>*)lanes[other])->value == me->value) me->result |= 1u << other;
  }
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T v, ASSAY_HERE) {
  AssayMatch<T> op{v, 0};
  assay_host->warp(assay_self, mask, assay_match_combine<T>, &op, ASSAY_AT);
  return op.result;
}

inline void assay_nothing(void* const*, unsigned) {}
inline void __syncwarp(unsigned mask = 0xffffffffu, ASSAY_HERE) {
  assay_host->warp(assay_self, mask, assay_nothing, nullptr, ASSAY_AT);
}
// Lanes that have not returned. Real hardware may give any subset of them.
inline unsigned __activemask() { return assay_host->active(assay_self); }
