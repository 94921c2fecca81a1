#define FEATUP_VARIANT avx2
#define FEATUP_NAME "AVX2"
#include "variant.hpp"
