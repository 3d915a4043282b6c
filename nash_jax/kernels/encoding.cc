// Kernels of an encoder, which has many rows: products with rows and weights of 8 bits, and attention within a sequence.
//
// Letters: R rows, K inputs and M outputs of a product, B sources, N heads, H head size, S source length.
//
// What counts here is to compute without a pause, from data that lie in the caches. A tile of sums, some rows by 16
// outputs, stays in registers; the weights of 16 outputs stay in the first cache for the rows of a block, and these
// rows in the second.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "common.h"

namespace {

using IntsIn = ffi::Buffer<ffi::S8>;

constexpr int64_t kDepth = 512;          // inputs that a tile sums before it goes to the next rows
constexpr int64_t kBlockRows = 48;       // rows that a thread multiplies by panel after panel
constexpr int64_t kUnitsPerThread = 4;   // parts of the work, at least
constexpr int64_t kFewestPanels = 8;     // of a part, for which its rows are rounded
constexpr int kWeightUnit = 1 << 24;     // scales of weights are divided by it (decoding.cc)

inline int64_t RoundUp(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// A product of a tile: rounded rows x [kTileRows, ...], weights of 16 outputs, and their sums in kParts vectors. There is one
// form for each set of instructions; Input is what a value of a row is stored as, Weight what a weight is.
#if defined(__AVX512VNNI__)

using Input = uint8_t;  // value + 128, as the instruction wants it; OffsetSums() says what that adds
using Weight = int8_t;
constexpr int kTileRows = 12, kOffset = 128;

inline const Weight* Prepare(const int8_t* weights, int64_t, Weight*) { return weights; }

inline Ints AddProducts(Ints sums, const Input* x, Ints weights) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(four), (__m512i)weights);
}

// Sums of a row of offsets: kOffset times the weights of each of 16 outputs.
inline Ints OffsetSums(const int8_t* panel, int64_t depth) {
  const int32_t offsets = kOffset * 0x01010101u;
  const Input* row = reinterpret_cast<const Input*>(&offsets);
  Ints found[4] = {};  // apart from each other, for an instruction does not wait for the last
  for (int64_t group = 0; group < depth / kGroup; group += 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      Ints own = {};
      if (group + i < depth / kGroup) std::memcpy(&own, panel + (group + i) * kGroup * kLanes, sizeof own);
      found[i] = AddProducts(found[i], row, own);
    }
  return found[0] + found[1] + found[2] + found[3];
}

inline void Tile(const Input* x, int64_t stride, const Weight* weights, int64_t depth, int32_t* sums) {
  Ints found[kTileRows] = {};
  do {
    Ints own;
    std::memcpy(&own, weights, sizeof own);
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r) found[r] = AddProducts(found[r], x + r * stride, own);
    weights += kGroup * kLanes;
    x += kGroup;
  } while (depth -= kGroup);
  for (int r = 0; r < kTileRows; ++r) {
    Ints before;
    std::memcpy(&before, sums + r * kLanes, sizeof before);
    before += found[r];
    std::memcpy(sums + r * kLanes, &before, sizeof before);
  }
}

#elif defined(__AVX2__)

using Input = int16_t;
using Weight = int16_t;  // [K / 2, 16, 2]: the instruction adds the products of two neighbours
constexpr int kTileRows = 6, kOffset = 0;

inline Ints OffsetSums(const int8_t*, int64_t) { return {}; }

inline const Weight* Prepare(const int8_t* weights, int64_t depth, Weight* prepared) {
  for (int64_t from = 0; from < depth * kLanes; from += sizeof(__m256i)) {  // 8 outputs of a group
    const __m256i four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + from));
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8), odd = _mm256_srai_epi16(four, 8);
    const __m256i first = _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xAA);
    const __m256i second = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA);
    Weight* to = prepared + from / (kGroup * kLanes) * (kGroup * kLanes) + from % (kGroup * kLanes) / 2;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), first);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 2 * kLanes), second);
  }
  return prepared;
}

typedef int32_t EightInts __attribute__((vector_size(32)));  // sums in __m256i, which has no lanes, would be copied

inline void Tile(const Input* x, int64_t stride, const Weight* weights, int64_t depth, int32_t* sums) {
  EightInts found[kTileRows][2] = {};
  do {
    const __m256i* own = reinterpret_cast<const __m256i*>(weights);
    const __m256i low = _mm256_loadu_si256(own), high = _mm256_loadu_si256(own + 1);
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; ++r) {
      int32_t two;
      std::memcpy(&two, x + r * stride, sizeof two);
      const __m256i both = _mm256_set1_epi32(two);
      found[r][0] += (EightInts)_mm256_madd_epi16(low, both);
      found[r][1] += (EightInts)_mm256_madd_epi16(high, both);
    }
    weights += 2 * kLanes;
    x += 2;
  } while (depth -= 2);
  for (int i = 0; i < 2 * kTileRows; ++i) {
    EightInts before;
    std::memcpy(&before, sums + i * 8, sizeof before);
    before += found[i / 2][i % 2];
    std::memcpy(sums + i * 8, &before, sizeof before);
  }
}

#else

using Input = int16_t;
using Weight = int16_t;  // [K, 16]
constexpr int kTileRows = 4, kOffset = 0;

inline Ints OffsetSums(const int8_t*, int64_t) { return {}; }

inline const Weight* Prepare(const int8_t* weights, int64_t depth, Weight* prepared) {
  for (int64_t k = 0; k < depth; ++k)
    for (int lane = 0; lane < kLanes; ++lane)
      prepared[k * kLanes + lane] = weights[(k / kGroup * kLanes + lane) * kGroup + k % kGroup];
  return prepared;
}

inline void Tile(const Input* x, int64_t stride, const Weight* weights, int64_t depth, int32_t* sums) {
  for (int64_t k = 0; k < depth; ++k)
    for (int r = 0; r < kTileRows; ++r)
      for (int lane = 0; lane < kLanes; ++lane)
        sums[r * kLanes + lane] += int32_t{x[r * stride + k]} * weights[k * kLanes + lane];
}

#endif

// Rounds rows [rows, inputs] to integers from -127 to 127 and the factor of each; `to` has `stride` inputs a row, and
// zeros after the last.
void RoundRows(const float* x, int64_t rows, int64_t inputs, int64_t stride, Input* to, float* factors) {
  std::fill(to, to + RoundUp(rows, kTileRows) * stride, Input{kOffset});
  for (int64_t r = 0; r < rows; ++r, x += inputs, to += stride) {
    const float largest = inputs ? Largest<true>(x, inputs) : 0.0f;
    factors[r] = largest / 127.0f;
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (int64_t k = 0; k < inputs; ++k) to[k] = static_cast<Input>(static_cast<int32_t>(std::rint(x[k] * inverse)) + kOffset);
  }
}

// What a product keeps of a block of rows and a panel, one for each thread.
struct Memory {
  std::vector<Input> inputs;
  std::vector<Weight> weights = std::vector<Weight>(kDepth * kLanes);
  std::vector<int32_t> sums = std::vector<int32_t>(kBlockRows * kLanes);
  std::vector<float> factors = std::vector<float>(kBlockRows);
};

// sums [rows, 16] = inputs · panel [K / 4, 16, 4], and OffsetSums()
void SumPanel(Memory& memory, const int8_t* panel, int64_t rows, int64_t stride) {
  std::fill(memory.sums.begin(), memory.sums.end(), 0);
  for (int64_t k = 0; k < stride; k += kDepth) {
    const int64_t depth = std::min(kDepth, stride - k);
    const Weight* weights = Prepare(panel + k * kLanes, depth, memory.weights.data());
    for (int64_t r = 0; r < rows; r += kTileRows)
      Tile(memory.inputs.data() + r * stride + k, stride, weights, depth, memory.sums.data() + r * kLanes);
  }
}

// y [R, M] = x [R, K] · W, whose panels are int8 [M / 16, K / 4, 16, 4]; a row of x is rounded to 8 bits too.
ffi::Error QuantizedProduct(ffi::ThreadPool pool, FloatsIn x, IntsIn panels, FloatsIn scales, FloatsOut y) {
  const int64_t rows = x.dimensions()[0], inputs = x.dimensions()[1], outputs = y->dimensions()[1];
  const int64_t num_panels = panels.dimensions()[0], stride = RoundUp(inputs, kGroup);
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  const int64_t wanted = (kUnitsPerThread * pool.num_threads() + blocks - 1) / std::max<int64_t>(blocks, 1);
  const int64_t part = std::max(kFewestPanels, (num_panels + wanted - 1) / wanted);  // panels of a unit
  const int64_t parts = (num_panels + part - 1) / part;
  ForAll(pool, blocks * parts, kBlockBytes, [&](int64_t first, int64_t last) {
    static thread_local Memory memory;
    memory.inputs.resize(std::max<size_t>(memory.inputs.size(), RoundUp(kBlockRows, kTileRows) * stride));
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t row = unit / parts * kBlockRows, some = std::min(kBlockRows, rows - row);
      RoundRows(x.typed_data() + row * inputs, some, inputs, stride, memory.inputs.data(), memory.factors.data());
      for (int64_t p = unit % parts * part; p < std::min(num_panels, (unit % parts + 1) * part); ++p) {
        SumPanel(memory, panels.typed_data() + p * stride * kLanes, some, stride);
        const Ints added = OffsetSums(panels.typed_data() + p * stride * kLanes, stride);
        const Floats scale = Load(scales.typed_data() + p * kLanes) * static_cast<float>(kWeightUnit);
        for (int64_t r = 0; r < some; ++r) {
          Ints sums;
          std::memcpy(&sums, memory.sums.data() + r * kLanes, sizeof sums);
          const Floats found = __builtin_convertvector(sums - added, Floats) * scale * memory.factors[r];
          Store(found, y->typed_data() + (row + r) * outputs + p * kLanes, outputs - p * kLanes);
        }
      }
    }
  });
  return ffi::Error::Success();
}

constexpr int kQueries = kWide == 16 ? 12 : kWide == 8 ? 6 : 4;  // rows of a tile, whose sums fit the registers

// y [kQueries, 16] = x [kQueries, depth] · panel [depth, 16]
inline void FloatTile(const float* x, int64_t x_stride, const float* panel, int64_t depth, float* y, int64_t y_stride) {
  constexpr int kParts = kLanes / kWide;
  Wide sums[kQueries][kParts] = {};
  do {
    Wide own[kParts];
    for (int i = 0; i < kParts; ++i) own[i] = LoadWide(panel + i * kWide);
#pragma GCC unroll 12
    for (int r = 0; r < kQueries; ++r) {
      const float value = x[r * x_stride];
#pragma GCC unroll 4
      for (int i = 0; i < kParts; ++i) sums[r][i] += own[i] * value;
    }
    panel += kLanes;
    ++x;
  } while (--depth);
  for (int r = 0; r < kQueries; ++r)
    for (int i = 0; i < kParts; ++i) std::memcpy(y + r * y_stride + i * kWide, &sums[r][i], sizeof sums[r][i]);
}

// Copies `used` rows of `head_dim` floats into panels: of 16 rows each [room / 16, head_dim, 16], or of 16 columns each
// [head_dim / 16, used, 16]; what is not there is 0.
void PackRows(const float* rows, int64_t stride, int64_t used, int64_t head_dim, float* panels) {
  for (int64_t first = 0; first < used; first += kLanes, panels += head_dim * kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float* row = rows + (first + lane) * stride;
      for (int64_t h = 0; h < head_dim; ++h) panels[h * kLanes + lane] = first + lane < used ? row[h] : 0.0f;
    }
}

void PackColumns(const float* rows, int64_t stride, int64_t used, int64_t head_dim, float* panels) {
  for (int64_t first = 0; first < head_dim; first += kLanes)
    for (int64_t t = 0; t < used; ++t, panels += kLanes)
      for (int lane = 0; lane < kLanes; ++lane)
        panels[lane] = first + lane < head_dim ? rows[t * stride + first + lane] : 0.0f;
}

// Attention of all positions of a sequence to each other: qkv [B · S, 3 · N · head_dim], bias [N, 2S - 1] by key position
// minus query position, padding [B, S] added too. Positions after the last token get zeros; so do all positions of a
// source of nothing but padding, or with `attends_padding` what their bias does not rule out.
ffi::Error SequenceAttention(ffi::ThreadPool pool, FloatsIn qkv, FloatsIn bias, FloatsIn padding, float scale,
                             bool attends_padding, FloatsOut context) {
  const int64_t sources = padding.dimensions()[0], length = padding.dimensions()[1], heads = bias.dimensions()[0];
  const int64_t width = context->dimensions()[1], head_dim = width / heads, stride = 3 * width;
  const int64_t wanted = kUnitsPerThread * pool.num_threads() / (sources * heads) + 1;
  const int64_t part = RoundUp((length + wanted - 1) / wanted, kQueries), parts = (length + part - 1) / part;
  ForAll(pool, sources * heads * parts, kBlockBytes, [&](int64_t first, int64_t last) {
    static thread_local std::vector<float> memory;
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t source = unit / parts / heads, head = unit / parts % heads, start = unit % parts * part;
      const float* own_padding = padding.typed_data() + source * length;
      const int64_t end = std::min(length, start + part);
      int64_t used = length;
      while (used > 0 && own_padding[used - 1] < kMasked) --used;
      if (used == 0 && attends_padding) used = length;
      const float* queries = qkv.typed_data() + source * length * stride + head * head_dim;
      float* out = context->typed_data() + source * length * width + head * head_dim;
      for (int64_t q = std::max(start, used); q < end; ++q) std::fill_n(out + q * width, head_dim, 0.0f);
      if (start >= used) continue;
      const int64_t room = RoundUp(used, kLanes), padded = RoundUp(head_dim, kLanes);
      memory.resize(room * head_dim + padded * used + kQueries * (head_dim + room + kLanes));
      float *keys = memory.data(), *values = keys + room * head_dim, *scaled = values + padded * used;
      float *scores = scaled + kQueries * head_dim, *found = scores + kQueries * room;
      PackRows(queries + width, stride, used, head_dim, keys);
      PackColumns(queries + 2 * width, stride, used, head_dim, values);
      for (int64_t q = start; q < std::min(end, used); q += kQueries) {
        const int64_t some = std::min<int64_t>(kQueries, std::min(end, used) - q);
        for (int64_t r = 0; r < kQueries; ++r)  // those after the last are computed, and left out
          for (int64_t h = 0; h < head_dim; ++h)
            scaled[r * head_dim + h] = r < some ? scale * queries[(q + r) * stride + h] : 0.0f;
        for (int64_t t = 0; t < room; t += kLanes)
          FloatTile(scaled, head_dim, keys + t * head_dim, head_dim, scores + t, room);
        float shares[kQueries];
        for (int64_t r = 0; r < some; ++r) {
          const float* own_bias = bias.typed_data() + head * (2 * length - 1) + length - 1 - (q + r);
          float* own = scores + r * room;
          for (int64_t t = 0; t < used; ++t) own[t] = own[t] + own_bias[t] + own_padding[t];
          shares[r] = Softmax(own, used, room);
        }
        for (int64_t h = 0; h < head_dim; h += kLanes) {
          FloatTile(scores, room, values + h * used, used, found, kLanes);
          for (int64_t r = 0; r < some; ++r)
            Store(Load(found + r * kLanes) * shares[r], out + (q + r) * width + h, head_dim - h);
        }
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(nash_jax_quantized_product, QuantizedProduct,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(nash_jax_sequence_attention, SequenceAttention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("scale")
                                  .Attr<bool>("attends_padding")
                                  .Ret<ffi::Buffer<ffi::F32>>());
