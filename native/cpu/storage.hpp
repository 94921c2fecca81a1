// Reading and writing rows of tensors in any layout and number format. Part of each instruction set's namespace.

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

template <class S>
constexpr bool kIsHalf = false;
template <>
constexpr bool kIsHalf<Half> = true;

inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
inline T widen(T value) {
  return value;
}
inline float widen(BFloat value) { return float_of(uint32_t(value.bits) << 16); }
inline float widen(Half value) {
  const uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
  float result = float_of(magnitude) * 5.192296858534828e33f;  // 2^112 moves the exponent, and makes subnormals normal
  if ((value.bits & 0x7c00) == 0x7c00) result = float_of(magnitude | 0x7f800000);
  return (value.bits & 0x8000) ? -result : result;
}

template <class S>
struct Narrow {
  template <class T>
  static S from(T value) {
    return S(value);
  }
};
template <>
struct Narrow<BFloat> {  // to nearest, ties to even
  static BFloat from(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return {uint16_t(0x7fc0)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
  }
};
template <>
struct Narrow<Half> {
  static Half from(float value) {
    const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff;
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
    if (magnitude > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (magnitude >= 0x47800000) return {uint16_t(sign | 0x7c00)};  // 65536 and more
    if (magnitude < 0x38800000) {  // subnormal: let the addition of a half round to multiples of 2^-24
      return {uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)))};
    }
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return {uint16_t(sign | ((rounded - 0x38000000) >> 13))};
  }
};

template <class T, class S>
inline Vector<T> load_as(const S* from, int64_t count) {
  if constexpr (sizeof(T) == sizeof(S)) {
    return load_some<T>(reinterpret_cast<const T*>(from), count);
  } else {
#if defined(__AVX512F__)
    if constexpr (kIsHalf<S>)
      if (count >= kLanes<T>)
        return reinterpret_cast<Vector<T>>(
            _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    if constexpr (kIsHalf<S>)
      if (count >= kLanes<T>)
        return reinterpret_cast<Vector<T>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
    T lanes[kLanes<T>] = {};
    if (count >= kLanes<T>) {
      for (int lane = 0; lane < kLanes<T>; ++lane) lanes[lane] = widen(from[lane]);
    } else {
      for (int64_t lane = 0; lane < count; ++lane) lanes[lane] = widen(from[lane]);
    }
    return load<T>(lanes);
  }
}
template <class T, class S>
inline void store_as(S* to, Vector<T> value, int64_t count) {
  if constexpr (sizeof(T) == sizeof(S)) {
    store_some<T>(reinterpret_cast<T*>(to), value, count);
  } else {
    T lanes[kLanes<T>];
    store<T>(lanes, value);
    if (count > kLanes<T>) count = kLanes<T>;
    for (int64_t lane = 0; lane < count; ++lane) to[lane] = Narrow<S>::from(lanes[lane]);
  }
}

inline int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

template <class S>
inline const S* address(const featup_tensor& tensor, int64_t b, int64_t c, int64_t y, int64_t x) {
  return static_cast<const S*>(tensor.data) + b * tensor.stride[0] + c * tensor.stride[1] + y * tensor.stride[2] +
         x * tensor.stride[3];
}

// Whether a map with its channels next to each other is larger than the caches, and its vectors are aligned for
// stream().
template <class T>
inline bool is_worth_streaming(const featup_tensor& map) {
  const int64_t* const size = map.size;
  return reinterpret_cast<uintptr_t>(map.data) % kVectorBytes == 0 && size[1] % kLanes<T> == 0 &&
         map.stride[0] % kLanes<T> == 0 && map.stride[2] % kLanes<T> == 0 && map.stride[3] % kLanes<T> == 0 &&
         size[0] * size[1] * size[2] * size[3] * int64_t(sizeof(T)) > (4 << 20);
}

// Memory of one thread, aligned to cache lines.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : raw_(malloc(size_t(count) * sizeof(T) + 64)) {
    data_ = raw_ == nullptr ? nullptr : reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(raw_) + 63) & ~uintptr_t(63));
  }
  ~Scratch() { free(raw_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }

 private:
  void* raw_;
  T* data_;
};

// Copy `channels` channels of `columns` pixels of a row, the first at column x0, to to[column * pitch + channel], as T.
// What lies outside of the tensor is 0, and so are the channels up to the pitch. The pitch is a multiple of the lanes.
template <class T, class S>
void read_row(const featup_tensor& from, int64_t b, int64_t c0, int64_t channels, int64_t y, int64_t x0,
              int64_t columns, T* to, int64_t pitch) {
  constexpr int lanes = kLanes<T>;
  const bool row_inside = y >= 0 && y < from.size[2];
  const int64_t first = row_inside ? smaller_of(larger_of(-x0, 0), columns) : columns;
  const int64_t last = row_inside ? larger_of(smaller_of(from.size[3] - x0, columns), first) : columns;
  for (int64_t i = 0; i < first * pitch; i += lanes) store<T>(to + i, Vector<T>{});
  for (int64_t i = last * pitch; i < columns * pitch; i += lanes) store<T>(to + i, Vector<T>{});
  if (first == last) return;
  const S* row = address<S>(from, b, c0, y, x0);
  const int64_t step = from.stride[3], plane = from.stride[1];
  const bool more_rows = y + 1 < from.size[2];
  if (plane == 1) {
    for (int64_t column = first; column < last; ++column) {
      const S* pixel = row + column * step;
      T* target = to + column * pitch;
      for (int64_t c = 0; c < pitch; c += lanes) {
        store<T>(target + c, load_as<T, S>(pixel + c, channels - c));
        if (more_rows) __builtin_prefetch(pixel + c + from.stride[2], 0, 2);
      }
    }
  } else if (step == 1) {
    Vector<T> block[lanes];
    for (int64_t c = 0; c < pitch; c += lanes) {
      const int64_t here = smaller_of(channels - c, lanes);
      for (int64_t column = first; column < last; column += lanes) {
        const int64_t count = smaller_of(last - column, lanes);
        for (int64_t i = 0; i < lanes; ++i) {
          const S* at = row + (c + i) * plane + column;
          block[i] = i < here ? load_as<T, S>(at, count) : Vector<T>{};
          if (more_rows && i < here) __builtin_prefetch(at + from.stride[2], 0, 2);
        }
        transpose<T>(block);
        for (int64_t i = 0; i < count; ++i) store<T>(to + (column + i) * pitch + c, block[i]);
      }
    }
  } else {
    for (int64_t column = first; column < last; ++column)
      for (int64_t c = 0; c < pitch; ++c)
        to[column * pitch + c] = c < channels ? T(widen(row[column * step + c * plane])) : T(0);
  }
}

// The reverse: from to[column * pitch + channel] to a row of a tensor.
template <class T, class S>
void write_row(const featup_tensor& into, int64_t b, int64_t c0, int64_t channels, int64_t y, int64_t x0,
               int64_t columns, const T* from, int64_t pitch) {
  constexpr int lanes = kLanes<T>;
  S* row = const_cast<S*>(address<S>(into, b, c0, y, x0));
  const int64_t step = into.stride[3], plane = into.stride[1];
  if (plane == 1) {
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t c = 0; c < channels; c += lanes)
        store_as<T, S>(row + column * step + c, load<T>(from + column * pitch + c), channels - c);
  } else if (step == 1) {
    Vector<T> block[lanes];
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t here = smaller_of(channels - c, lanes);
      for (int64_t column = 0; column < columns; column += lanes) {
        const int64_t count = smaller_of(columns - column, lanes);
        for (int64_t i = 0; i < lanes; ++i)
          block[i] = i < count ? load<T>(from + (column + i) * pitch + c) : Vector<T>{};
        transpose<T>(block);
        for (int64_t i = 0; i < here; ++i) store_as<T, S>(row + (c + i) * plane + column, block[i], count);
      }
    }
  } else {
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t c = 0; c < channels; ++c) row[column * step + c * plane] = Narrow<S>::from(from[column * pitch + c]);
  }
}

template <class T>
using ReadRow = void (*)(const featup_tensor&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, T*, int64_t);
template <class T>
using WriteRow = void (*)(const featup_tensor&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const T*,
                          int64_t);

template <class T>
struct Formats;
template <>
struct Formats<double> {
  static ReadRow<double> reader(int32_t) { return read_row<double, double>; }
  static WriteRow<double> writer(int32_t) { return write_row<double, double>; }
};
template <>
struct Formats<float> {
  static ReadRow<float> reader(int32_t dtype) {
    if (dtype == FEATUP_FLOAT16) return read_row<float, Half>;
    if (dtype == FEATUP_BFLOAT16) return read_row<float, BFloat>;
    return read_row<float, float>;
  }
  static WriteRow<float> writer(int32_t dtype) {
    if (dtype == FEATUP_FLOAT16) return write_row<float, Half>;
    if (dtype == FEATUP_BFLOAT16) return write_row<float, BFloat>;
    return write_row<float, float>;
  }
};

template <class T>
constexpr int32_t kPlain = sizeof(T) == 8 ? FEATUP_FLOAT64 : FEATUP_FLOAT32;
