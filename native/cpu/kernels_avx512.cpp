#define FEATUP_VARIANT avx512
#define FEATUP_NAME "AVX-512"
#include "variant.hpp"
