// What the ranks of a communicator share: a file in memory, named by the unique id, with a seat for each rank. Its
// name goes when all are seated; the file goes with the last of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

namespace fake {

constexpr int MAX_RANKS = 32;
/// Bytes that a rank hands over in one step; it has two slots, so that it may write while others still read.
constexpr size_t SLOT = 256 << 10;

/// What a rank thinks that all of them do.
struct Call {
    int kind, type, root_or_operation;
    uint64_t count;
    bool operator==(const Call&) const = default;
};

struct Seat {
    std::atomic<uint32_t> taken;
    int device;
    /// The last step whose data it wrote.
    alignas(64) std::atomic<uint64_t> written;
    Call calls[2];
};

struct Shared {
    std::atomic<uint32_t> ranks, seated;
    Seat seats[MAX_RANKS];
};

class Board {
  public:
    /// Null if there is no such file and none can be made.
    static std::shared_ptr<Board> open(const std::string& name, int ranks, int rank);
    ~Board();

    Shared& shared() { return *shared_; }
    Seat& seat(int rank) { return shared_->seats[rank]; }
    char* slot(int rank, uint64_t step) { return slots_ + (size_t(rank) * 2 + step % 2) * SLOT; }

    /// Takes this rank's seat; false if somebody has it, or expects another number of ranks.
    bool sit(int device);
    /// Whether a rank sat down and is still there: the kernel takes its lock away when it dies or leaves.
    bool is_present(int rank);
    void leave();
    void remove_name();

  private:
    Board(std::string name, int ranks, int rank, int file) : name_(std::move(name)), ranks_(ranks), rank_(rank), file_(file) {}
    bool lock(int rank, short type, int command, short& found);

    std::string name_;
    int ranks_, rank_;
    std::atomic<int> file_;
    Shared* shared_ = nullptr;
    char* slots_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace fake
