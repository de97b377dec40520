// The part of NCCL's ABI that the fake speaks: 2.28's numbers and layouts.
#pragma once

#include <climits>
#include <cstddef>

#define API extern "C" __attribute__((visibility("default")))

enum ncclResult_t : int {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7,
};

enum ncclDataType_t : int {
    ncclInt8 = 0,
    ncclUint8 = 1,
    ncclInt32 = 2,
    ncclUint32 = 3,
    ncclInt64 = 4,
    ncclUint64 = 5,
    ncclFloat16 = 6,
    ncclFloat32 = 7,
    ncclFloat64 = 8,
    ncclBfloat16 = 9,
    ncclFloat8e4m3 = 10,
    ncclFloat8e5m2 = 11,
};

enum ncclRedOp_t : int { ncclSum = 0 };

struct ncclUniqueId {
    char internal[128];
};

constexpr unsigned NCCL_MAGIC = 0xcafebeef;
constexpr int NCCL_UNDEFINED = INT_MIN;
constexpr int NCCL_VERSION = 22809;

/// What comes behind `blocking` changes nothing here.
struct ncclConfig_t {
    size_t size;
    unsigned magic, version;
    int blocking;
};

using ncclComm_t = struct ncclComm*;
