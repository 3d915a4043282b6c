// Kernels of a decoding step: products of few rows and a large matrix, and attention of one query in each row.
//
// Letters: R rows, K inputs and M outputs of a product, B sources, N heads, H head size (padded to whole vectors), T
// positions of a cache, S source length.
//
// A step reads all weights of the decoder once, so what counts is to read memory without a pause. A matrix [K, M] is
// stored as panels [M / 16, K, 16]: the 16 lanes of a vector are outputs, a panel is read from its first byte to its
// last, and no sum goes across lanes. Vectors have 16 floats; the compiler splits them where registers are shorter.

#include "common.h"

namespace {

constexpr int kMaxRows = 8;   // of a product, whose sums are kept in registers
constexpr int kChunks = 4;    // vectors of a value that are summed together
constexpr int kAhead = 4096;  // bytes before they are read, memory is asked for weights

// The weights of kGroup inputs, times `kUnit<Weight>`.
inline void Unpack(const float* group, Floats* weights) {
  for (int i = 0; i < kGroup; ++i) weights[i] = Load(group + i * kLanes);
}

// 16 integers of 32 bits, of which each has the weights of one output: the first input's in its lowest byte.
inline void Unpack(const int8_t* group, Floats* weights) {
  Ints packed;
  std::memcpy(&packed, group, sizeof packed);
  const int32_t top = -(1 << 24);  // mask of the highest byte, in which a weight has its sign
  weights[0] = __builtin_convertvector(packed << 24, Floats);
  weights[1] = __builtin_convertvector((packed << 16) & top, Floats);
  weights[2] = __builtin_convertvector((packed << 8) & top, Floats);
  weights[3] = __builtin_convertvector(packed & top, Floats);
}

// sums[r] = Σ_k x[r, k] · panel[k], for kRows rows
template <int kRows, typename Weight>
inline void PanelProduct(const float* x, int64_t inputs, const Weight* panel, Floats* sums) {
  constexpr int kParts = kRows == 1 ? 4 : kRows < 4 ? 2 : 1;  // sums that do not wait for each other
  Floats parts[kParts][kRows] = {}, weights[kGroup];
  int64_t k = 0;
  for (; k + kGroup <= inputs; k += kGroup) {
    for (size_t line = 0; line < sizeof(Weight); ++line) {  // of 64 bytes
      __builtin_prefetch(reinterpret_cast<const char*>(panel + k * kLanes) + kAhead + line * 64);
    }
    Unpack(panel + k * kLanes, weights);
    for (int i = 0; i < kGroup; ++i)
      for (int r = 0; r < kRows; ++r) parts[i % kParts][r] += weights[i] * x[r * inputs + k + i];
  }
  if (k < inputs) {
    Unpack(panel + k * kLanes, weights);
    for (int i = 0; i < inputs - k; ++i)
      for (int r = 0; r < kRows; ++r) parts[0][r] += weights[i] * x[r * inputs + k + i];
  }
  for (int r = 0; r < kRows; ++r) {
    sums[r] = parts[0][r];
    for (int p = 1; p < kParts; ++p) sums[r] += parts[p][r];
  }
}

template <typename Weight>
void PanelRows(int64_t rows, const float* x, int64_t inputs, const Weight* panel, Floats* sums) {
  switch (rows) {
    case 1: return PanelProduct<1>(x, inputs, panel, sums);
    case 2: return PanelProduct<2>(x, inputs, panel, sums);
    case 3: return PanelProduct<3>(x, inputs, panel, sums);
    case 4: return PanelProduct<4>(x, inputs, panel, sums);
    case 5: return PanelProduct<5>(x, inputs, panel, sums);
    case 6: return PanelProduct<6>(x, inputs, panel, sums);
    case 7: return PanelProduct<7>(x, inputs, panel, sums);
    default: return PanelProduct<8>(x, inputs, panel, sums);
  }
}

// y [R, M] = x [R, K] · W, with W as panels [P, K, 16]; scales [16 · P] multiply the outputs, or are empty.
template <typename Weight>
void Product(ffi::ThreadPool& pool, FloatsIn x, const Weight* panels, int64_t num_panels, FloatsIn scales,
             FloatsOut& y) {
  const int64_t rows = x.dimensions()[0], inputs = x.dimensions()[1], outputs = y->dimensions()[1];
  const int64_t panel_size = (inputs + kGroup - 1) / kGroup * kGroup * kLanes;
  const float* factors = scales.element_count() ? scales.typed_data() : nullptr;
  ForAll(pool, num_panels, panel_size * sizeof(Weight), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p)
      for (int64_t row = 0; row < rows; row += kMaxRows) {
        const int64_t some = std::min<int64_t>(kMaxRows, rows - row);
        Floats sums[kMaxRows];
        PanelRows(some, x.typed_data() + row * inputs, inputs, panels + p * panel_size, sums);
        for (int64_t r = 0; r < some; ++r) {
          if (factors) sums[r] *= Load(factors + p * kLanes);
          Store(sums[r], y->typed_data() + (row + r) * outputs + p * kLanes, outputs - p * kLanes);
        }
      }
  });
}

ffi::Error ProductOfAny(ffi::ThreadPool pool, FloatsIn x, ffi::AnyBuffer panels, FloatsIn scales, FloatsOut y) {
  const int64_t count = panels.dimensions()[0];
  if (panels.element_type() == ffi::S8) {
    Product(pool, x, panels.typed_data<int8_t>(), count, scales, y);
  } else {
    Product(pool, x, panels.typed_data<float>(), count, scales, y);
  }
  return ffi::Error::Success();
}

// scores [length] = query · keys + bias
template <typename Keys>
void Score(const float* query, int64_t padded, int64_t length, const float* bias, const Keys& keys, float* scores) {
  for (int64_t t = 0; t < length; ++t) {
    const float* key = keys(t);
    Floats sum{};
    for (int64_t h = 0; h < padded; h += kLanes) sum += Load(query + h) * Load(key + h);
    scores[t] = Sum(sum) + bias[t];
  }
}

// sums [count · 16] = Σ_t weights[t] · values(t)
template <int kCount, typename Values>
void WeightedSum(const float* weights, int64_t length, const Values& values, Floats* sums) {
  Floats found[kCount] = {};
  for (int64_t t = 0; t < length; ++t) {
    const float* value = values(t);
    for (int i = 0; i < kCount; ++i) found[i] += Load(value + i * kLanes) * weights[t];
  }
  std::copy_n(found, kCount, sums);
}

// context [head_dim] = softmax(scale · query · keys + bias) · values, over `length` positions; `keys(t)` and
// `values(t)` are rows of `padded` floats.
template <typename Keys, typename Values>
void Attend(const float* query, int64_t head_dim, int64_t padded, int64_t length, float scale, const float* bias,
            const Keys& keys, const Values& values, float* context) {
  static thread_local std::vector<float> memory;
  const int64_t room = (length + kLanes - 1) / kLanes * kLanes;
  memory.assign(room + padded, 0.0f);
  float *scores = memory.data(), *scaled = scores + room;
  for (int64_t h = 0; h < head_dim; ++h) scaled[h] = scale * query[h];
  Score(scaled, padded, length, bias, keys, scores);
  const float share = Softmax(scores, length, room);
  Floats sums[kChunks];
  for (int64_t h = 0; h < padded; h += kChunks * kLanes) {
    const int64_t chunks = std::min<int64_t>(kChunks, (padded - h) / kLanes);
    const auto from = [&](int64_t t) { return values(t) + h; };
    switch (chunks) {
      case 1: WeightedSum<1>(scores, length, from, sums); break;
      case 2: WeightedSum<2>(scores, length, from, sums); break;
      case 3: WeightedSum<3>(scores, length, from, sums); break;
      default: WeightedSum<kChunks>(scores, length, from, sums);
    }
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t start = h + i * kLanes;
      Store(sums[i] * share, context + start, std::max<int64_t>(head_dim - start, 0));
    }
  }
}

// Self-attention of the token at a position, whose key and value are written to the caches [R, N, T, H] in place.
//
// qkv [R, 3 · N · head_dim]; bias [N, 2T - 1] by key position minus query position; ancestors [R, T], the row
// of the cache in which each position of a row lies.
ffi::Error SelfAttention(ffi::ThreadPool pool, FloatsIn qkv, FloatsIn, FloatsIn, FloatsIn bias,
                         ffi::Buffer<ffi::S32> ancestors, ffi::Buffer<ffi::S32> at, float scale, FloatsOut context,
                         FloatsOut keys, FloatsOut values) {
  const auto sizes = keys->dimensions();
  const int64_t heads = sizes[1], length = sizes[2], padded = sizes[3], width = context->dimensions()[1];
  const int64_t head_dim = width / heads, position = at.typed_data()[0];
  const int32_t* rows = ancestors.typed_data();
  const auto attend = [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t row = item / heads, head = item % heads;
      const float* query = qkv.typed_data() + row * 3 * width + head * head_dim;
      const auto place = [&](FloatsOut& cache, int64_t of, int64_t t) {
        return cache->typed_data() + ((of * heads + head) * length + t) * padded;
      };
      std::copy_n(query + width, head_dim, place(keys, row, position));
      std::copy_n(query + 2 * width, head_dim, place(values, row, position));
      const float* own_bias = bias.typed_data() + head * (2 * length - 1) + length - 1 - position;
      const auto key = [&](int64_t t) { return place(keys, rows[row * length + t], t); };
      const auto value = [&](int64_t t) { return place(values, rows[row * length + t], t); };
      float* out = context->typed_data() + row * width + head * head_dim;
      Attend(query, head_dim, padded, position + 1, scale, own_bias, key, value, out);
    }
  };
  ForAll(pool, sizes[0] * heads, 2 * (position + 1) * padded * sizeof(float), attend);
  return ffi::Error::Success();
}

// Attention to the source: query [R, N · head_dim], of B sources with R / B consecutive rows each; keys and values
// [B, N, S, H]; bias [B, S]. Padding after the last token is not read. A source of nothing but padding gets zeros, or
// with `attends_padding` the mean of what its bias does not rule out.
ffi::Error CrossAttention(ffi::ThreadPool pool, FloatsIn query, FloatsIn keys, FloatsIn values, FloatsIn bias,
                          float scale, bool attends_padding, FloatsOut context) {
  const auto sizes = keys.dimensions();
  const int64_t heads = sizes[1], length = sizes[2], padded = sizes[3], width = context->dimensions()[1];
  const int64_t head_dim = width / heads, beams = query.dimensions()[0] / sizes[0];
  const auto attend = [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t source = item / heads, head = item % heads;
      const float* own_bias = bias.typed_data() + source * length;
      int64_t used = length;
      while (used > 0 && own_bias[used - 1] < kMasked) --used;
      const int64_t first_place = item * length * padded;
      const auto key = [&](int64_t t) { return keys.typed_data() + first_place + t * padded; };
      const auto value = [&](int64_t t) { return values.typed_data() + first_place + t * padded; };
      for (int64_t row = source * beams; row < (source + 1) * beams; ++row) {
        const int64_t place = row * width + head * head_dim;
        float* out = context->typed_data() + place;
        if (used || attends_padding) {
          Attend(query.typed_data() + place, head_dim, padded, used ? used : length, scale, own_bias, key, value, out);
        } else {
          std::fill_n(out, head_dim, 0.0f);
        }
      }
    }
  };
  ForAll(pool, sizes[0] * heads, 2 * length * padded * sizeof(float), attend);
  return ffi::Error::Success();
}

// best [R] = the first index of the largest of scores [R, V]
ffi::Error Argmax(ffi::ThreadPool pool, FloatsIn scores, ffi::Result<ffi::Buffer<ffi::S32>> best) {
  const int64_t rows = scores.dimensions()[0], size = scores.dimensions()[1];
  ForAll(pool, rows, size * sizeof(float), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float* own = scores.typed_data() + row * size;
      const float highest = Largest<false>(own, size);
      best->typed_data()[row] = std::find(own, own + size, highest) - own;
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(nash_jax_product, ProductOfAny,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(nash_jax_self_attention, SelfAttention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Attr<float>("scale")
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(nash_jax_cross_attention, CrossAttention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("scale")
                                  .Attr<bool>("attends_padding")
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(nash_jax_argmax, Argmax,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());
