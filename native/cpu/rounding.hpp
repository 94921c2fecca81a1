// Window weights in float16. The rounding error of each tap is carried to the next one, so that a pixel's weights keep
// their sum up to half a unit of the last tap, which is small because it is a corner of the window. With independent
// rounding of the 49 weights, a constant map would get a grain of 1e-4.

inline Vector<float> store_half(Half* to, Vector<float> value, int64_t count) {
  if (count >= kLanes<float>) {
#if defined(__AVX512F__)
    const __m256i bits = _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(value), 0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
    return reinterpret_cast<Vector<float>>(_mm512_maskz_cvtph_ps(0xffff, bits));
#elif defined(__F16C__)
    const __m128i bits = _mm256_cvtps_ph(reinterpret_cast<__m256>(value), 0);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bits);
    return reinterpret_cast<Vector<float>>(_mm256_cvtph_ps(bits));
#endif
  }
  store_as<float, Half>(to, value, count);
  return load_as<float, Half>(to, count);
}

inline void round_weights_line(const RoundingJob& job, int64_t b, int64_t y) {
  const int64_t taps = job.weights.size[1], width = job.weights.size[3];
  for (int64_t x = 0; x < width; x += kLanes<float>) {
    const int64_t count = smaller_of(width - x, kLanes<float>);
    Vector<float> carried{};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const Vector<float> wanted = load_some<float>(address<float>(job.weights, b, tap, y, x), count) + carried;
      carried = wanted - store_half(const_cast<Half*>(address<Half>(job.result, b, tap, y, x)), wanted, count);
    }
  }
}

bool round_weights(const RoundingJob& job) {
  const int64_t height = job.weights.size[2], lines = job.weights.size[0] * height;
#pragma omp parallel for num_threads(job.threads) schedule(static)
  for (int64_t line = 0; line < lines; ++line) round_weights_line(job, line / height, line % height);
  return true;
}
