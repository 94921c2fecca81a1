// A yardstick: how many products and sums the processor can do, with every operand in a register and no sum waiting for
// another. Only the loop of a thread is here; nothing is read or written.

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
    // The count depends, as far as the compiler can see, on every lane of every sum: or it would leave the loop out.
    bool wild = false;
    for (int lane = 0; lane < kLanes<float>; ++lane) wild = wild || total[lane] > 1e9f;
    operations += 2.0 * kPeakSums * kLanes<float> * double(job.rounds) + (wild ? 1 : 0);
  }
  *job.operations = operations;
  return true;
}
