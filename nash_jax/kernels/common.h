// What all kernels share: vectors, e^x, and work that XLA's threads divide.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using FloatsIn = ffi::Buffer<ffi::F32>;
using FloatsOut = ffi::Result<ffi::Buffer<ffi::F32>>;

constexpr int kLanes = 16;
constexpr int kGroup = 4;                     // inputs whose weights are unpacked together
constexpr int64_t kBlockBytes = 64 << 10;     // read by a thread before it asks for more work
constexpr int kSpins = 2000;                  // looks at a counter, some microseconds, before a thread sleeps
constexpr float kMasked = -5e8f;              // a bias below: the position is padding

typedef float Floats __attribute__((vector_size(64)));
typedef float Half __attribute__((vector_size(32)));
typedef float Quarter __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(64)));

inline Floats Load(const float* from) {
  Floats found;
  std::memcpy(&found, from, sizeof found);
  return found;
}

// Vectors as wide as the registers: longer ones are compared lane by lane.
#if defined(__AVX512F__)
constexpr int kWide = 16;
#elif defined(__AVX__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
typedef float Wide __attribute__((vector_size(4 * kWide)));
typedef int32_t WideInts __attribute__((vector_size(4 * kWide)));

inline Wide LoadWide(const float* from) {
  Wide found;
  std::memcpy(&found, from, sizeof found);
  return found;
}

// The largest of values, or of their sizes.
template <bool kSizes>
inline float Largest(const float* values, int64_t count) {
  const auto size = [](auto value) { return kSizes && value < 0 ? -value : value; };
  float largest = size(values[0]);
  int64_t i = 0;
  if (count >= kWide) {
    Wide lanes = LoadWide(values);
    lanes = kSizes ? lanes < 0.0f ? -lanes : lanes : lanes;
    for (; i + kWide <= count; i += kWide) {
      const Wide own = LoadWide(values + i), sizes = kSizes ? own < 0.0f ? -own : own : own;
      lanes = sizes > lanes ? sizes : lanes;
    }
    for (int lane = 0; lane < kWide; ++lane) largest = std::max(largest, lanes[lane]);
  }
  for (; i < count; ++i) largest = std::max(largest, size(values[i]));
  return largest;
}

inline void Store(Floats values, float* to, int64_t count = kLanes) {
  if (count >= kLanes) {
    std::memcpy(to, &values, sizeof values);
  } else {
    for (int i = 0; i < count; ++i) to[i] = values[i];
  }
}

inline float Sum(Floats values) {
  Half halves[2];
  std::memcpy(halves, &values, sizeof halves);
  const Half half = halves[0] + halves[1];
  Quarter quarters[2];
  std::memcpy(quarters, &half, sizeof quarters);
  const Quarter sums = quarters[0] + quarters[1];
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

// e^x for x <= 0: 2^n · e^r, |r| <= ln(2) / 2, with the Taylor polynomial of degree 7; an error of some 1e-7.
inline Wide Exp(Wide x) {
  const Wide bounded = x < -87.0f ? Wide{} - 87.0f : x;
  const WideInts n = __builtin_convertvector(bounded * 1.44269504f - 0.5f, WideInts);
  const Wide whole = __builtin_convertvector(n, Wide);
  const Wide r = bounded - whole * 0.693359375f + whole * 2.12194440e-4f;
  Wide sum = Wide{} + 1.0f / 5040;
  for (float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + factor;
  const WideInts bits = (n + 127) << 23;
  Wide power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? Wide{} : sum * power;
}

// scores [room] → e^(score - the largest), where room is a multiple of 16 and those from `used` on become 0; returns
// 1 / their sum
inline float Softmax(float* scores, int64_t used, int64_t room) {
  std::fill(scores + used, scores + room, -std::numeric_limits<float>::infinity());
  const float highest = Largest<false>(scores, room);
  Wide sums{};
  for (int64_t t = 0; t < room; t += kWide) {
    const Wide weights = Exp(LoadWide(scores + t) - highest);
    std::memcpy(scores + t, &weights, sizeof weights);
    sums += weights;
  }
  float total = 0;
  for (int i = 0; i < kWide; ++i) total += sums[i];
  return 1.0f / total;
}

// Work that threads share: each takes the next block until none is left.
struct Job {
  int64_t count, block;
  std::atomic<int64_t> next{0}, done{0};
  std::mutex mutex;
  std::condition_variable all_done;
};

template <typename Work>
void TakeBlocks(Job& job, const Work& work) {
  for (int64_t first; (first = job.next.fetch_add(job.block)) < job.count;) {
    const int64_t last = std::min(first + job.block, job.count);
    work(first, last);
    if (job.done.fetch_add(last - first) + last - first == job.count) {
      std::lock_guard<std::mutex> lock(job.mutex);
      job.all_done.notify_one();
    }
  }
}

// Calls work(first, last) for parts of [0, count), here and on XLA's threads. A thread that comes late finds no block
// and touches nothing else, so nobody waits for threads that other programs keep from running.
template <typename Work>
void ForAll(ffi::ThreadPool& pool, int64_t count, int64_t item_bytes, const Work& work) {
  const int64_t block = std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(item_bytes, 1));
  const int64_t helpers = std::min((count + block - 1) / block, pool.num_threads()) - 1;
  if (helpers < 1) {
    work(0, count);
    return;
  }
  auto job = std::make_shared<Job>();
  job->count = count;
  job->block = block;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([job, &work] { TakeBlocks(*job, work); });
  TakeBlocks(*job, work);
  for (int i = 0; i < kSpins; ++i)
    if (job->done.load() == count) return;
  std::unique_lock<std::mutex> lock(job->mutex);
  job->all_done.wait(lock, [&] { return job->done.load() == count; });
}

}  // namespace
