#include "board.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace fake {

std::shared_ptr<Board> Board::open(const std::string& name, int ranks, int rank) {
    int file = shm_open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0) return nullptr;
    std::shared_ptr<Board> board(new Board(name, ranks, rank, file));
    size_t header = (sizeof(Shared) + 4095) / 4096 * 4096;
    board->bytes_ = header + size_t(ranks) * 2 * SLOT;
    // A new file is all zeros, which is a board on which nobody sits.
    if (ftruncate(file, off_t(board->bytes_)) != 0) return nullptr;
    void* mapping = mmap(nullptr, board->bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapping == MAP_FAILED) return nullptr;
    board->shared_ = static_cast<Shared*>(mapping);
    board->slots_ = static_cast<char*>(mapping) + header;
    return board;
}

Board::~Board() {
    leave();
    if (shared_) munmap(shared_, bytes_);
}

/// Locks belong to the open file, so that ranks may be threads of one process, and end with the process at the latest.
bool Board::lock(int rank, short type, int command, short& found) {
    struct flock lock = {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = rank;
    lock.l_len = 1;
    bool done = fcntl(file_, command, &lock) == 0;
    found = lock.l_type;
    return done;
}

bool Board::sit(int device) {
    uint32_t none = 0;
    shared_->ranks.compare_exchange_strong(none, uint32_t(ranks_));
    if (shared_->ranks != uint32_t(ranks_)) return false;
    short ignored;
    if (!lock(rank_, F_WRLCK, F_OFD_SETLK, ignored)) return false;
    if (seat(rank_).taken.exchange(1)) return false;
    seat(rank_).device = device;
    if (++shared_->seated == uint32_t(ranks_)) remove_name();
    return true;
}

bool Board::is_present(int rank) {
    short found;
    return !seat(rank).taken || (lock(rank, F_WRLCK, F_OFD_GETLK, found) && found != F_UNLCK);
}

void Board::leave() {
    int file = file_.exchange(-1);
    if (file >= 0) close(file);
}

void Board::remove_name() { shm_unlink(name_.c_str()); }

}  // namespace fake
