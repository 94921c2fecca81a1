#define FEATUP_VARIANT baseline
#define FEATUP_NAME "baseline"
#include "variant.hpp"
