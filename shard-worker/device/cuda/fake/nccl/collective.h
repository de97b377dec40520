// The collectives: each is a number of steps, in which every rank hands over a slot of bytes and reads the others'.
#pragma once

#include "communicator.h"

namespace fake {

enum class Kind : int { AllReduce, Broadcast, AllGather };

struct Collective {
    std::shared_ptr<Communicator> communicator;
    Kind kind;
    const void* from;
    void* to;
    size_t count;
    ncclDataType_t type;
    /// Of a broadcast.
    int root;

    /// What the caller got wrong, before anything is enqueued.
    ncclResult_t check() const;
    /// On the stream; the result is a CUresult.
    int run() const;

  private:
    bool step(size_t offset, size_t bytes, bool is_first) const;
    bool agree(uint64_t step) const;
    void read(uint64_t step, size_t offset, size_t bytes) const;
};

size_t bytes_of(ncclDataType_t type);

}  // namespace fake
