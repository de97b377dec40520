#include "ptx.cuh"
#include "common.cuh"
