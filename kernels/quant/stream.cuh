// Products of one vector with many quantised rows: bound by the bytes of the rows, so what counts is that many bytes are
// on their way at any time, and that those which have come cost little.
//
// A warp owns a slice of 2048 elements and keeps the vector's part of it in registers, as limbs (quant/limbs.cuh). Rows
// go past it through a ring in shared memory, as stored: aligned copies of 16 bytes, whatever the blocks' alignment, with
// the next batches always under way. As many warps as the vector has slices share a row; the rest of the block's warps
// take other rows. A grid of about two blocks for each multiprocessor stays to the end, so a vector is read and split
// once for hundreds of rows and no SM waits for a last wave.
//
// A lane format, one for each block format, says how a lane reads its 64 elements of a slice:
//   kSliceBytes                     bytes of 2048 elements
//   kRows, kStages                  rows of a batch, batches in the ring
//   Tables                          lookup tables in shared memory, which all threads fill with fill()
//   first(lane), kStride            the lane's first element, and how far its four runs of 16 lie apart
//   X                               what it keeps of the vector: LaneLimbs or SummedLimbs
//   dot(tables, row, lane, count, x)   the lane's share of a row's slice; elements from `count` on are not there
#pragma once
#include "common/async.cuh"
#include "common/reduce.cuh"
#include "quant/limbs.cuh"

// Dynamic shared memory, in bytes, that manifests ask for:
//   kRing + kSliceLimbs · (slices of the vector, at most SLICES; more are taken in turns)
// `Source` is what is multiplied:
//   slots, k             vectors that belong together, and the elements of each
//   kOneVector           there is one slot, in every case
//   kVectorFirst         whether registers are to spare for the vector's elements while rows are asked for
//   first, end           rows of this block
//   x(slot)              a slot's vector
//   weights(slot)        where this slot's rows are; null when it adds nothing
//   row(weights, r)      row r of those
//   even                 whether all rows start on 16 bytes and have a multiple of them
//   kAtOnce, store(r, totals)   takes the sums over all slots of kAtOnce rows from r
//   kPair                what is a row here is two rows of half a slice: the lower lanes' and the upper lanes'. Needs a
//                        slice that is one row here, and L::kRows 1; store() then takes both
template <class L, int WARPS, int SLICES>
class RowStream {
 public:
  static_assert(SLICES <= WARPS, "a warp for each");
  static constexpr int kThreads = 32 * WARPS;
  static constexpr int kPitch = L::kSliceBytes + 16;  // a row may start anywhere in 16 bytes
  static constexpr int kBatch = L::kRows * kPitch;
  static constexpr int kRing = WARPS * L::kStages * kBatch;
  static constexpr int kSums = 128 * WARPS;

  template <class Source>
  __device__ static void run(const Source& source) {
    __shared__ typename L::Tables tables;
    __shared__ float sums[kSums];
    DYN_SHARED(u8, shared);
    u8* const vector = shared + kRing;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int of_slot = (source.k + kSlice - 1) / kSlice, slices = source.slots * of_slot;
    const int width = min(slices, SLICES), turns = (slices + SLICES - 1) / SLICES;
    constexpr int kOfRow = Source::kPair ? 2 : 1;  // sums
    // Before anything is on its way whole divisions are dear; these are of small numbers by the same one.
    const float inverse = 1.0f / width;
    const int groups = quotient(WARPS, inverse), group = quotient(warp, inverse), in_group = warp - group * width;
    const int chunk = quotient(kSums / kOfRow, inverse) / 2 * 2;

    typename L::X x;
    for (int first = source.first; first < source.end; first += chunk) {
      const int rows = min(chunk, source.end - first);
      for (int turn = 0; turn < turns; ++turn) {
        const int slice = turn * width + in_group;
        const int slot = Source::kOneVector ? 0 : slice / of_slot;
        const bool works = group < groups && slice < slices;
        const u8* weights = works ? source.weights(slot) : nullptr;
        Reader<Source> reader(source, shared + warp * L::kStages * kBatch, weights, (slice - slot * of_slot) * kSlice,
                              first + group * L::kRows, weights == nullptr ? 0 : first + rows, groups * L::kRows);
        const bool splits = turns > 1 || first == source.first;
        // The vector is asked for before the rows: behind them it would come last, and nothing would be on its way while it
        // is split. No row waits for it.
        float4 v[kLoads];
        if (Source::kVectorFirst && splits) gather(source, turn * width, width, 4 * threadIdx.x, v);
#pragma unroll 1
        for (int i = 0; i < L::kStages - 1; ++i) reader.fetch();
        if (splits) {
          if (turns > 1) __syncthreads();  // the slices of the turn before are no longer read
          if (turn == 0 && first == source.first) L::fill(tables);
          split(source, vector, turn * width, width, v);
          __syncthreads();
          x.load(vector + in_group * kSliceLimbs, L::first(lane), L::kStride);
        }
#pragma unroll 1
        for (int row = first + group * L::kRows; works && row < first + rows; row += groups * L::kRows) {
          float sum[L::kRows] = {};
          if (weights != nullptr) {
            const u8* batch = reader.next();
#pragma unroll
            for (int r = 0; r < L::kRows; ++r) {
              if (row + r >= first + rows) break;
              sum[r] = L::dot(tables, reader.row(batch, row + r, r), lane, source.k - reader.element(), x);
            }
          }
          if (Source::kPair) {
            const float total = half_warp_sum(sum[0]);
            if (lane % 16 == 0) sums[2 * (row - first) + lane / 16] = total;
            continue;
          }
          const float total = warp_sums(sum);
          const int r = row - first + lane / (32 / L::kRows);
          if (lane % (32 / L::kRows) == 0 && r < rows) {
            float& to = sums[r * width + in_group];
            to = turn == 0 ? total : to + total;
          }
        }
        reader.finish();
      }
      // Slices that are not there leave their sums as they were.
      __syncthreads();
      constexpr int kStep = Source::kAtOnce / kOfRow;
      for (int r = threadIdx.x * kStep; r < rows; r += kThreads * kStep) {
        float totals[Source::kAtOnce];
#pragma unroll
        for (int i = 0; i < Source::kAtOnce; ++i) {
          totals[i] = 0.0f;
          if (Source::kPair) {
            totals[i] = sums[2 * r + i];
            continue;
          }
          for (int s = 0; s < width; ++s) totals[i] += sums[(r + i) * width + s];
        }
        source.store(first + r, totals);
      }
      __syncthreads();
    }
  }

 private:
  static constexpr int kLoads = 4;

  // n / d from 1 / d, for n below 2^20: (n + 1/2) / d is 1/2d or more from a whole number, which no rounding makes up for.
  __device__ static int quotient(int n, float inverse) { return static_cast<int>((n + 0.5f) * inverse); }

  // This thread's next elements, from `from` on, of `width` slices of the vector; zeros where there are none.
  template <class Source>
  __device__ static void gather(const Source& source, int first, int width, int from, float4 (&v)[kLoads]) {
    const int of_slot = (source.k + kSlice - 1) / kSlice;
    const bool even = Source::kOneVector && aligned16(source.x(0)) && source.k % 4 == 0;
#pragma unroll
    for (int n = 0; n < kLoads; ++n) {
      const int i = from + 4 * kThreads * n, slice = first + i / kSlice;
      const int slot = Source::kOneVector ? 0 : slice / of_slot;
      const int at = Source::kPair ? i % (kSlice / 2) : (slice - slot * of_slot) * kSlice + i % kSlice;
      const bool there = i < width * kSlice && slot < source.slots;
      // Nothing is multiplied before this has come: what the model's own widths need is few instructions.
      if (even) {
        const bool read = there && at < source.k;
        v[n] = read ? *reinterpret_cast<const float4*>(source.x(0) + at) : float4{0.0f, 0.0f, 0.0f, 0.0f};
      } else {
        v[n] = load4(source.x(there ? slot : 0), at, there ? source.k : 0);
      }
    }
  }

  // `width` slices of the vector from `first` into shared memory; `v` is what gather() has of this thread's first.
  template <class Source>
  __device__ static void split(const Source& source, u8* vector, int first, int width, float4 (&v)[kLoads]) {
    constexpr int kRound = 4 * kThreads * kLoads, kRounds = (SLICES * kSlice + kRound - 1) / kRound;
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
      const int from = round * kRound + 4 * threadIdx.x;
      if (!Source::kVectorFirst || round > 0) gather(source, first, width, from, v);
#pragma unroll
      for (int n = 0; n < kLoads; ++n) {
        const int i = from + 4 * kThreads * n;  // a warp's 128 are of one slice
        if (i < width * kSlice) split_into_limbs(vector + i / kSlice * kSliceLimbs, i % kSlice, v[n]);
      }
    }
  }

  // A warp's ring: batches of L::kRows rows from `row` to `end`, `step` rows from one batch to the next.
  template <class Source>
  class Reader {
   public:
    __device__ Reader(const Source& source, u8* ring, const u8* weights, int element, int row, int end, int step)
        : source_(source), ring_(ring), weights_(weights), element_(element), row_(row), end_(end), step_(step) {
      bytes_ = min(source.k - element, kSlice) * L::kSliceBytes / kSlice;
    }

    __device__ int element() const { return element_; }

    // Starts the next batch, if there is one.
    __device__ void fetch() {
      if (row_ < end_) {
        u8* const batch = ring_ + to_ * kBatch;
        constexpr int kPieces = L::kSliceBytes / 16, kOfLane = (L::kRows * kPieces + 31) / 32;
        if (source_.even) {
#pragma unroll
          for (int c = 0; c < kOfLane; ++c) {
            const int piece = 32 * c + threadIdx.x % 32, r = piece / kPieces, at = piece % kPieces * 16;
            if (r < L::kRows && row_ + r < end_ && at < bytes_) {
              cp_async_16(batch + r * kPitch + at, address(row_ + r) + at);
            }
          }
        } else {
#pragma unroll 1
          for (int r = 0; r < L::kRows && row_ + r < end_; ++r) fetch_uneven(batch + r * kPitch, address(row_ + r));
        }
        row_ += step_;
        to_ = to_ + 1 == L::kStages ? 0 : to_ + 1;
      }
      cp_async_commit();
    }

    // The oldest batch that was not taken yet; starts another.
    __device__ const u8* next() {
      cp_async_wait<L::kStages - 2>();
      __syncwarp();  // all lanes have their copies, and have read the batch whose place is filled now
      fetch();
      const u8* batch = ring_ + from_ * kBatch;
      from_ = from_ + 1 == L::kStages ? 0 : from_ + 1;
      return batch;
    }

    // A row where it stands in shared memory, as number `r` of its batch.
    __device__ const u8* row(const u8* batch, int row, int r) const {
      return batch + r * kPitch + (source_.even ? 0 : reinterpret_cast<u64>(address(row)) & 15);
    }

    __device__ void finish() {
      cp_async_wait<0>();
      __syncwarp();
    }

   private:
    const Source& source_;
    u8* ring_;
    const u8* weights_;
    int element_, row_, end_, step_, bytes_;
    int to_ = 0, from_ = 0;

    __device__ const u8* address(int row) const {
      return source_.row(weights_, row) + element_ / kSlice * L::kSliceBytes;
    }

    // Bytes keep their place within 16: whole pieces are copied as ever, the ends two bytes at a time.
    __device__ void fetch_uneven(u8* to, const u8* from) {
      const int off = reinterpret_cast<u64>(from) & 15, end = off + bytes_;
      from -= off;
#pragma unroll 1
      for (int at = threadIdx.x % 32 * 16; at < end; at += 32 * 16) {
        if (at >= off && at + 16 <= end) {
          cp_async_16(to + at, from + at);
        } else {
#pragma unroll 1
          for (int i = max(at, off); i < min(at + 16, end); i += 2) {
            *reinterpret_cast<u16*>(to + i) = *reinterpret_cast<const u16*>(from + i);
          }
        }
      }
    }
  };
};
