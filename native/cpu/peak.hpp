// The peak rate of products and sums, with every operand in a register and no sum waiting for another. This is the loop
// of one thread; it neither reads nor writes memory.

constexpr int kPeakSums = kManyRegisters ? 24 : 12;  // two units with a latency of four or five cycles need ten

bool multiply_add(const MultiplyAddJob& job) {
  double operations = 0;
#pragma omp parallel num_threads(job.threads) reduction(+ : operations)
  {
    Vector<float> sums[kPeakSums], factor = broadcast(0.5f),
                                   term = broadcast(0.5f);  // towards 1: no overflow, no subnormals
    keep_in_register<float>(factor);
    keep_in_register<float>(term);
#pragma GCC unroll 24
    for (int i = 0; i < kPeakSums; ++i) sums[i] = broadcast(float(i));
    for (int64_t round = 0; round < job.rounds; ++round) {
#pragma GCC unroll 24
      for (int i = 0; i < kPeakSums; ++i) sums[i] = sums[i] * factor + term;
    }
    Vector<float> total{};
#pragma GCC unroll 24
    for (int i = 0; i < kPeakSums; ++i) total += sums[i];
    // To the compiler, the count depends on every lane of every sum; otherwise it would remove the loop.
    bool wild = false;
    for (int lane = 0; lane < kLanes<float>; ++lane) wild = wild || total[lane] > 1e9f;
    operations += 2.0 * kPeakSums * kLanes<float> * double(job.rounds) + (wild ? 1 : 0);
  }
  *job.operations = operations;
  return true;
}
