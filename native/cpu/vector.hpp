// Vectors of the width that the including file is compiled for. Included once for each instruction set, inside the
// namespace of that set. Nothing here may be shared, because the linker could otherwise give AVX-512 code to a
// processor without it. For the same reason no templates of the standard library are used in the kernels.

constexpr int kVectorBytes =
#if defined(__AVX512F__)
    64;
#elif defined(__AVX2__)
    32;
#else
    16;
#endif

// The number of vector registers limits the size of the tile of sums.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

#if defined(__GNUC__)

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));

template <class T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(from);
}
template <class T>
inline void store(T* to, Vector<T> value) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(to) = value;
}
template <class T>
inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// GCC would rather load a vector again for every multiplication than keep it in a register.
template <class T>
inline void keep_in_register(Vector<T>& value) {
#if defined(__x86_64__) && !defined(__clang__)
  asm volatile("" : "+v"(value));
#else
  (void)value;
#endif
}

template <class T>
inline Vector<T> larger(Vector<T> a, Vector<T> b) {
  return a > b ? a : b;
}

// Store around the caches, for results that are larger than they are. The address is a multiple of the vector's size.
template <class T>
inline void stream(T* to, Vector<T> value) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(value));
#else
  store<T>(to, value);
#endif
}
inline void end_of_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <int Bytes>
struct IndexOf;
template <>
struct IndexOf<4> {
  typedef int32_t type;
};
template <>
struct IndexOf<8> {
  typedef int64_t type;
};

// One step of transposing: rows whose numbers differ by `Step` exchange the halves of their groups of 2 * Step lanes.
template <class T, int Step>
inline void exchange(Vector<T>& first, Vector<T>& second) {
  constexpr int lanes = kLanes<T>;
  typedef typename IndexOf<sizeof(T)>::type Index;
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
  Indices low, high;
#pragma GCC unroll 16
  for (int lane = 0; lane < lanes; ++lane) {
    const bool upper = (lane & Step) != 0;
    low[lane] = upper ? lanes + lane - Step : lane;
    high[lane] = upper ? lanes + lane : lane + Step;
  }
#if defined(__clang__)
  Vector<T> a, b;
  for (int lane = 0; lane < lanes; ++lane) {
    a[lane] = low[lane] < lanes ? first[low[lane]] : second[low[lane] - lanes];
    b[lane] = high[lane] < lanes ? first[high[lane]] : second[high[lane] - lanes];
  }
#else
  const Vector<T> a = __builtin_shuffle(first, second, low);
  const Vector<T> b = __builtin_shuffle(first, second, high);
#endif
  first = a;
  second = b;
}

template <class T, int Step>
inline void transpose_from(Vector<T>* rows) {
  if constexpr (Step < kLanes<T>) {
#pragma GCC unroll 16
    for (int row = 0; row < kLanes<T>; ++row)
      if ((row & Step) == 0) exchange<T, Step>(rows[row], rows[row + Step]);
    transpose_from<T, 2 * Step>(rows);
  }
}

template <class T, int Step>
inline void add_from(Vector<T>* rows) {
  if constexpr (Step < kLanes<T>) {
#pragma GCC unroll 16
    for (int row = 0; row < kLanes<T>; row += 2 * Step) {
      exchange<T, Step>(rows[row], rows[row + Step]);
      rows[row] += rows[row + Step];
    }
    add_from<T, 2 * Step>(rows);
  }
}

template <class T>
inline void transpose(Vector<T>* rows) {
  transpose_from<T, 1>(rows);
}

// Lane i of the result is the sum of the lanes of row i.
template <class T>
inline Vector<T> add_lanes(Vector<T>* rows) {
  add_from<T, 1>(rows);
  return rows[0];
}

// exp for arguments up to about 88, within 2 units in the last place; exactly 0 where it would be below the normal
// numbers.
inline Vector<float> exponential(Vector<float> x) {
  typedef Vector<float> V;
  const V smallest = broadcast(-87.0f);
  const auto vanishes = x < smallest;
  const V bounded = vanishes ? smallest : x;
  const V shift = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const V shifted = bounded * 1.44269504088896341f + shift;
  const V whole = shifted - shift;
  const V rest = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts (Cephes)
  V series = broadcast(1.9875691500e-4f);
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  series = series * (rest * rest) + rest + 1.0f;
  const Integers exponent = reinterpret_cast<Integers>(shifted) << 23;
  const V result = reinterpret_cast<V>(reinterpret_cast<Integers>(series) + exponent);
  // NaN must stay NaN; its exponent bits overflow above.
  return vanishes ? V{} : (bounded == bounded ? result : bounded);
}
inline Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = ::exp(x[lane]);
  return x;
}

#else  // One lane, for compilers without vector types: correct, and as fast as the compiler makes it.
#error "this compiler has no vector extensions; the pure-torch reference runs instead"
#endif

// The first `count` lanes from memory, the others 0.
template <class T>
inline Vector<T> load_some(const T* from, int64_t count) {
  Vector<T> result{};
  if (count >= kLanes<T>) return load<T>(from);
  T lanes[kLanes<T>] = {};
  for (int64_t lane = 0; lane < count; ++lane) lanes[lane] = from[lane];
  result = load<T>(lanes);
  return result;
}
template <class T>
inline void store_some(T* to, Vector<T> value, int64_t count) {
  if (count >= kLanes<T>) return store<T>(to, value);
  T lanes[kLanes<T>];
  store<T>(lanes, value);
  for (int64_t lane = 0; lane < count; ++lane) to[lane] = lanes[lane];
}
// Lanes from[at] on, those before 0 and from `length` on are 0 and not read. `inside` promises that there are none.
template <class T>
inline Vector<T> load_between(const T* from, int64_t at, int64_t length, bool inside) {
  if (inside || (at >= 0 && at + kLanes<T> <= length)) return load<T>(from + at);
  T lanes[kLanes<T>] = {};
  if (at >= length || at + kLanes<T> <= 0) return load<T>(lanes);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const int64_t before = at < 0 ? -at : 0, behind = at + kLanes<T> > length ? at + kLanes<T> - length : 0;
    const __mmask16 mask = __mmask16((0xffff << before) & (0xffff >> behind));
    return reinterpret_cast<Vector<T>>(_mm512_maskz_loadu_ps(mask, from + at));
  }
#endif
  for (int64_t lane = 0; lane < kLanes<T>; ++lane)
    if (at + lane >= 0 && at + lane < length) lanes[lane] = from[at + lane];
  return load<T>(lanes);
}
