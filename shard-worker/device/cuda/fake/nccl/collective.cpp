#include "collective.h"

#include <algorithm>
#include <cstring>

#include "../cublaslt/numbers.h"
#include "../fake_enqueue.h"

namespace fake {

namespace {

constexpr int CUDA_ERROR_ILLEGAL_ADDRESS = 700;

float load(const char* data, ncclDataType_t type, size_t i) {
    if (type == ncclFloat32) return reinterpret_cast<const float*>(data)[i];
    return bf16_to_float(reinterpret_cast<const uint16_t*>(data)[i]);
}

void store(char* data, ncclDataType_t type, size_t i, float value) {
    if (type == ncclFloat32)
        reinterpret_cast<float*>(data)[i] = value;
    else
        reinterpret_cast<uint16_t*>(data)[i] = float_to_bf16(value);
}

}  // namespace

size_t bytes_of(ncclDataType_t type) {
    switch (type) {
        case ncclInt32:
        case ncclUint32:
        case ncclFloat32: return 4;
        case ncclInt64:
        case ncclUint64:
        case ncclFloat64: return 8;
        case ncclFloat16:
        case ncclBfloat16: return 2;
        default: return 1;
    }
}

ncclResult_t Collective::check() const {
    if (type < ncclInt8 || type > ncclFloat8e5m2) return failed(ncclInvalidArgument, "no such type");
    if (kind == Kind::AllReduce && type != ncclFloat32 && type != ncclBfloat16)
        return failed(ncclInvalidArgument, "the fake adds f32 and bf16 alone");
    if (kind == Kind::Broadcast && (root < 0 || root >= communicator->ranks)) return failed(ncclInvalidArgument, "no such root");
    bool reads = kind != Kind::Broadcast || root == communicator->rank;
    if (count && (!to || (reads && !from))) return failed(ncclInvalidArgument, "a buffer is null");
    return ncclSuccess;
}

int Collective::run() const {
    size_t bytes = count * bytes_of(type);
    bool reads = kind != Kind::Broadcast || root == communicator->rank;
    size_t written = kind == Kind::AllGather ? bytes * size_t(communicator->ranks) : bytes;
    int error = 0;
    communicator->operate([&] {
        if ((reads && !fakeAccessible(from, bytes)) || !fakeAccessible(to, written)) {
            error = CUDA_ERROR_ILLEGAL_ADDRESS;
            return;
        }
        for (size_t offset = 0; offset < bytes; offset += SLOT)
            if (!step(offset, std::min(SLOT, bytes - offset), offset == 0)) return;
    });
    return error;
}

/// Hands over this rank's bytes and reads all ranks'; false if it was aborted. Whoever has written step n has read step
/// n - 1, so two slots are enough for nobody to overwrite what another still reads.
bool Collective::step(size_t offset, size_t bytes, bool is_first) const {
    Communicator& c = *communicator;
    Board& board = c.board();
    uint64_t now = c.next_step();
    if (kind != Kind::Broadcast || root == c.rank)
        memcpy(board.slot(c.rank, now), static_cast<const char*>(from) + offset, bytes);
    board.seat(c.rank).calls[now % 2] = {int(kind), int(type), root, count};
    board.seat(c.rank).written = now;
    for (int other = 0; other < c.ranks; other++)
        if (!c.wait_for(other, [&] { return board.seat(other).written >= now; })) return false;
    if (is_first && !agree(now)) return false;
    read(now, offset, bytes);
    return true;
}

/// Ranks that call different things would wait for each other for ever; here they are told why.
bool Collective::agree(uint64_t step) const {
    Communicator& c = *communicator;
    const Call& mine = c.board().seat(c.rank).calls[step % 2];
    for (int other = 0; other < c.ranks; other++) {
        if (c.board().seat(other).calls[step % 2] == mine) continue;
        c.report(ncclInvalidUsage, "rank " + std::to_string(other) + " makes another call");
        c.hang();
        return false;
    }
    return true;
}

/// Sums are made in the order of ranks, in f32, and rounded once: the same on every rank, every time.
void Collective::read(uint64_t step, size_t offset, size_t bytes) const {
    Communicator& c = *communicator;
    char* out = static_cast<char*>(to) + offset;
    if (kind == Kind::Broadcast) memcpy(out, c.board().slot(root, step), bytes);
    if (kind == Kind::AllGather)
        for (int other = 0; other < c.ranks; other++)
            memcpy(out + size_t(other) * count * bytes_of(type), c.board().slot(other, step), bytes);
    if (kind != Kind::AllReduce) return;
    for (size_t i = 0; i < bytes / bytes_of(type); i++) {
        float sum = 0;
        for (int other = 0; other < c.ranks; other++) sum += load(c.board().slot(other, step), type, i);
        store(out, type, i, sum);
    }
}

}  // namespace fake
