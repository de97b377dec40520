// Collectives between threads and between processes, and what becomes of them when a rank dies.
// usage: nccl                              the facts
//        nccl ROLE RANK RANKS ID           one rank, in a process of its own
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <thread>

#include "../cublaslt/numbers.h"
#include "facts.h"

using namespace test;
using Clock = std::chrono::steady_clock;

namespace {

/// As cudarc lays it out.
struct Config {
    size_t size = sizeof(Config);
    unsigned magic = NCCL_MAGIC, version = NCCL_VERSION;
    int blocking = 0, cga = NCCL_UNDEFINED, min_ctas = NCCL_UNDEFINED, max_ctas = NCCL_UNDEFINED;
    const char* net = nullptr;
    int split = NCCL_UNDEFINED, traffic = NCCL_UNDEFINED;
    const char* name = nullptr;
    int rest[6] = {NCCL_UNDEFINED, NCCL_UNDEFINED, NCCL_UNDEFINED, NCCL_UNDEFINED, NCCL_UNDEFINED, NCCL_UNDEFINED};
    ncclConfig_t* get() { return reinterpret_cast<ncclConfig_t*>(this); }
};

/// Polls until the communicator is no longer in progress; ncclInProgress if it takes longer than `seconds`.
ncclResult_t poll(ncclComm_t comm, double seconds = 10) {
    auto end = Clock::now() + std::chrono::duration<double>(seconds);
    ncclResult_t state;
    do {
        OK(ncclCommGetAsyncError(comm, &state));
        if (state != ncclInProgress) return state;
        usleep(100);
    } while (Clock::now() < end);
    return ncclInProgress;
}

/// One rank: a device, a stream, and a communicator that does not block.
struct Rank : Life {
    int rank, ranks;
    CUstream s = stream();
    ncclComm_t comm;

    Rank(int rank, int ranks, const ncclUniqueId& id) : rank(rank), ranks(ranks) {
        Config config;
        GIVES(ncclInProgress, ncclCommInitRankConfig(&comm, ranks, id, rank, config.get()));
        OK(poll(comm));
        // The first collective connects the ranks.
        CUdeviceptr token = upload(std::vector<float>{0});
        GIVES(ncclInProgress, all_reduce(token, 1));
        OK(poll(comm));
        OK(cuStreamSynchronize(s));
    }

    static void* at(CUdeviceptr address) { return reinterpret_cast<void*>(address); }
    ncclResult_t all_reduce(CUdeviceptr x, size_t count, ncclDataType_t type = ncclFloat32) {
        return ncclAllReduce(at(x), at(x), count, type, ncclSum, comm, s);
    }
    /// Waits until the communicator tells an error; ncclSuccess if it does not.
    ncclResult_t first_error() {
        auto end = Clock::now() + std::chrono::seconds(10);
        ncclResult_t state = ncclSuccess;
        while (state == ncclSuccess && Clock::now() < end) {
            OK(ncclCommGetAsyncError(comm, &state));
            usleep(100);
        }
        return state;
    }
    /// Waits for the stream, at most so long.
    bool ends_within(double seconds) {
        auto end = Clock::now() + std::chrono::duration<double>(seconds);
        while (cuStreamQuery(s) == CUDA_ERROR_NOT_READY) {
            if (Clock::now() > end) return false;
            usleep(200);
        }
        return true;
    }
};

std::vector<float> ramp(size_t count, float from) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; i++) values[i] = from + float(i);
    return values;
}

// What a rank does. Large counts take several steps of shared memory.

void sums(Rank& r) {
    for (size_t count : {size_t(1), size_t(1000), size_t(300000)}) {
        CUdeviceptr x = r.upload(ramp(count, float(r.rank)));
        for (int i = 0; i < 3; i++) {
            OK(cuMemcpyHtoDAsync_v2(x, ramp(count, float(r.rank)).data(), count * 4, r.s));
            OK(r.all_reduce(x, count));
        }
        OK(cuStreamSynchronize(r.s));
        auto got = r.download<float>(x, count);
        for (size_t i = 0; i < count; i++) THAT(got[i] == float(r.ranks) * float(i) + float(r.ranks * (r.ranks - 1) / 2));
    }
}

void bf16_sums(Rank& r) {
    std::vector<uint16_t> x(1000);
    for (size_t i = 0; i < x.size(); i++) x[i] = float_to_bf16(1.0f / float(i + 1 + size_t(r.rank)));
    CUdeviceptr device = r.upload(x);
    OK(r.all_reduce(device, x.size(), ncclBfloat16));
    OK(cuStreamSynchronize(r.s));
    auto got = r.download<uint16_t>(device, x.size());
    for (size_t i = 0; i < x.size(); i++) {
        float sum = 0;
        for (int rank = 0; rank < r.ranks; rank++) sum += bf16_to_float(float_to_bf16(1.0f / float(i + 1 + size_t(rank))));
        THAT(got[i] == float_to_bf16(sum));
    }
}

void broadcasts_and_gathers(Rank& r) {
    size_t count = 100000;
    CUdeviceptr x = r.upload(ramp(count, float(r.rank * 1000000))), all = r.memory(count * 4 * size_t(r.ranks));
    OK(ncclAllGather(Rank::at(x), Rank::at(all), count, ncclFloat32, r.comm, r.s));
    OK(ncclBroadcast(Rank::at(x), Rank::at(x), count, ncclFloat32, r.ranks - 1, r.comm, r.s));
    OK(cuStreamSynchronize(r.s));
    auto gathered = r.download<float>(all, count * size_t(r.ranks));
    for (int rank = 0; rank < r.ranks; rank++) THAT(gathered[size_t(rank) * count + 7] == float(rank * 1000000 + 7));
    THAT(r.download<float>(x, count)[9] == float((r.ranks - 1) * 1000000 + 9));
}

void replays(Rank& r) {
    CUdeviceptr x = r.upload(std::vector<float>{1});
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamBeginCapture_v2(r.s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(r.all_reduce(x, 1));
    OK(r.all_reduce(x, 1));
    OK(cuStreamEndCapture(r.s, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    for (int i = 0; i < 3; i++) OK(cuGraphLaunch(executable, r.s));
    OK(cuStreamSynchronize(r.s));
    float want = 1;
    for (int i = 0; i < 6; i++) want *= float(r.ranks);
    THAT(r.download<float>(x, 1)[0] == want);
}

/// Aborting ends what runs at once, and returns when the last graph with an operation is gone.
void aborts_with_a_graph(Rank& r) {
    CUdeviceptr x = r.upload(std::vector<float>{1});
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamBeginCapture_v2(r.s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(r.all_reduce(x, 1));
    OK(cuStreamEndCapture(r.s, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuGraphDestroy(graph));
    if (!r.rank) OK(cuGraphLaunch(executable, r.s));
    std::atomic<bool> aborted = false;
    std::thread aborting([&] {
        ncclCommAbort(r.comm);
        aborted = true;
    });
    bool ended = r.ends_within(1);
    usleep(50000);
    bool waited = !aborted;
    OK(cuGraphExecDestroy(executable));
    aborting.join();
    THAT(ended && waited);
}

/// The last rank is killed; the others are told, their streams never end, and abort frees them.
void loses_a_peer(Rank& r) {
    if (r.rank == r.ranks - 1) raise(SIGKILL);
    CUdeviceptr x = r.upload(std::vector<float>{1});
    OK(r.all_reduce(x, 1));
    CUevent event = r.event();
    OK(cuEventRecord(event, r.s));
    GIVES(ncclRemoteError, r.first_error());
    THAT(!r.ends_within(0.05));
    GIVES(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    GIVES(ncclRemoteError, r.all_reduce(x, 1));
    THAT(strstr(ncclGetLastError(nullptr), "is gone"));
    OK(ncclCommAbort(r.comm));
    THAT(r.ends_within(10));
    OK(scale(r.function("fake_scale"), r.s, x, x, 1, 2));
    OK(cuStreamSynchronize(r.s));
}

/// The same, with nobody told.
void hangs(Rank& r) {
    if (r.rank == r.ranks - 1) raise(SIGKILL);
    CUdeviceptr x = r.upload(std::vector<float>{1});
    OK(r.all_reduce(x, 1));
    THAT(!r.ends_within(0.3));
    OK(poll(r.comm));
    OK(ncclCommAbort(r.comm));
    THAT(r.ends_within(10));
}

void makes_another_call(Rank& r) {
    CUdeviceptr x = r.upload(std::vector<float>{1, 2});
    OK(r.all_reduce(x, r.rank ? 1 : 2));
    GIVES(ncclInvalidUsage, r.first_error());
    THAT(!r.ends_within(0.05));
    OK(ncclCommAbort(r.comm));
    THAT(r.ends_within(10));
}

/// Rank 0 comes late to an all-reduce, so that the others end their communicators while they wait for it.
void comes_late(Rank& r, CUdeviceptr x) {
    if (!r.rank) OK(cuLaunchHostFunc(r.s, [](void*) { usleep(200000); }, nullptr));
    OK(r.all_reduce(x, 1));
}

void finalizes(Rank& r) {
    CUdeviceptr x = r.upload(std::vector<float>{1});
    comes_late(r, x);
    OK(ncclCommFinalize(r.comm));
    // Nothing else waits for the stream.
    THAT(r.download<float>(x, 1)[0] == float(r.ranks));
    OK(poll(r.comm));
    OK(ncclCommDestroy(r.comm));
    GIVES(ncclInvalidArgument, r.all_reduce(x, 1));
}

void destroys(Rank& r) {
    CUdeviceptr x = r.upload(std::vector<float>{1});
    comes_late(r, x);
    OK(ncclCommDestroy(r.comm));
    THAT(r.download<float>(x, 1)[0] == float(r.ranks));
}

const std::map<std::string, void (*)(Rank&)> ROLES{
    {"sums", sums},
    {"bf16_sums", bf16_sums},
    {"broadcasts_and_gathers", broadcasts_and_gathers},
    {"replays", replays},
    {"aborts_with_a_graph", aborts_with_a_graph},
    {"finalizes", finalizes},
    {"destroys", destroys},
    {"loses_a_peer", loses_a_peer},
    {"hangs", hangs},
    {"makes_another_call", makes_another_call},
};

ncclUniqueId new_id() {
    ncclUniqueId id;
    OK(ncclGetUniqueId(&id));
    return id;
}

pid_t start(const char* role, int rank, int ranks, const ncclUniqueId& id) {
    pid_t child = fork();
    if (child) return child;
    std::string number = std::to_string(rank), count = std::to_string(ranks);
    execl("/proc/self/exe", "nccl", role, number.c_str(), count.c_str(), id.internal, nullptr);
    _exit(127);
}

/// Runs the ranks in processes of their own; whether each ended as it should. `killed` is the rank that kills itself.
bool in_processes(const char* role, int ranks, int killed = -1) {
    ncclUniqueId id = new_id();
    std::vector<pid_t> children;
    for (int rank = 0; rank < ranks; rank++) children.push_back(start(role, rank, ranks, id));
    bool good = true;
    for (int rank = 0; rank < ranks; rank++) {
        int status;
        waitpid(children[size_t(rank)], &status, 0);
        good = good && (rank == killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    return good && access(("/dev/shm" + std::string(id.internal)).c_str(), F_OK) != 0;
}

int rank_main(char** arguments) {
    ncclUniqueId id{};
    strncpy(id.internal, arguments[4], sizeof id.internal - 1);
    alarm(20);
    try {
        Rank rank(atoi(arguments[2]), atoi(arguments[3]), id);
        ROLES.at(arguments[1])(rank);
    } catch (const std::exception& error) {
        fprintf(stderr, "rank %s: %s\n", arguments[2], error.what());
        return 1;
    }
    return 0;
}

void between_processes() {
    for (auto async : {"0", "1"}) {
        setenv("FAKE_CUDA_ASYNC", async, 1);
        std::string how = *async == '1' ? ", asynchronously" : "";
        for (int ranks : {2, 4}) {
            std::string of = std::to_string(ranks) + " processes" + how;
            fact(("all-reduce adds f32 of " + of).c_str(), [&] { THAT(in_processes("sums", ranks)); });
            fact(("all-reduce adds bf16 of " + of + ", rounded once").c_str(), [&] { THAT(in_processes("bf16_sums", ranks)); });
            fact(("broadcast and all-gather move what they should between " + of).c_str(),
                 [&] { THAT(in_processes("broadcasts_and_gathers", ranks)); });
            fact(("captured collectives run at each launch in " + of).c_str(), [&] { THAT(in_processes("replays", ranks)); });
            fact(("a killed rank of " + of + " is told, and abort frees the others").c_str(),
                 [&] { THAT(in_processes("loses_a_peer", ranks, ranks - 1)); });
        }
    }
    unsetenv("FAKE_CUDA_ASYNC");
    fact("with FAKE_NCCL_HANG a killed rank is not told, and abort frees the others", [] {
        setenv("FAKE_NCCL_HANG", "1", 1);
        bool good = in_processes("hangs", 4, 3);
        unsetenv("FAKE_NCCL_HANG");
        THAT(good);
    });
    fact("abort waits until no graph has an operation of the communicator", [] { THAT(in_processes("aborts_with_a_graph", 2)); });
    fact("ranks that make different calls are told", [] { THAT(in_processes("makes_another_call", 2)); });
    fact("finalize waits for what was enqueued", [] { THAT(in_processes("finalizes", 2)); });
    fact("destroy waits for what was enqueued", [] { THAT(in_processes("destroys", 3)); });
}

void in_one_process() {
    fact("ranks may be threads", [] {
        ncclUniqueId id = new_id();
        std::vector<std::thread> threads;
        std::atomic<int> good = 0;
        for (int rank = 0; rank < 3; rank++)
            threads.emplace_back([&, rank] {
                try {
                    Rank r(rank, 3, id);
                    sums(r);
                    OK(ncclCommDestroy(r.comm));
                    good++;
                } catch (const std::exception& error) {
                    fprintf(stderr, "rank %d: %s\n", rank, error.what());
                }
            });
        for (auto& thread : threads) thread.join();
        THAT(good == 3);
    });
    fact("a group lets one thread be all ranks", [] {
        Life life;
        ncclUniqueId id = new_id();
        ncclComm_t comms[2];
        CUstream streams[2] = {life.stream(), life.stream()};
        CUdeviceptr x[2] = {life.upload(std::vector<float>{1}), life.upload(std::vector<float>{2})};
        OK(ncclGroupStart());
        for (int rank = 0; rank < 2; rank++) OK(ncclCommInitRank(&comms[rank], 2, id, rank));
        OK(ncclGroupEnd());
        OK(ncclGroupStart());
        for (int rank = 0; rank < 2; rank++)
            OK(ncclAllReduce(Rank::at(x[rank]), Rank::at(x[rank]), 1, ncclFloat32, ncclSum, comms[rank], streams[rank]));
        OK(ncclGroupEnd());
        OK(cuCtxSynchronize());
        THAT(life.download<float>(x[0], 1)[0] == 3 && life.download<float>(x[1], 1)[0] == 3);
        for (ncclComm_t comm : comms) OK(ncclCommDestroy(comm));
    });
    fact("a communicator of one rank works", [] {
        Rank r(0, 1, new_id());
        sums(r);
        int count, rank;
        OK(ncclCommCount(r.comm, &count));
        OK(ncclCommUserRank(r.comm, &rank));
        THAT(count == 1 && rank == 0);
    });
}

void beginnings() {
    fact("it calls itself 2.28.9", [] {
        int version;
        OK(ncclGetVersion(&version));
        THAT(version == 22809);
    });
    fact("a config that was not initialised, and ranks that can't be, are refused", [] {
        Life life;
        ncclComm_t comm;
        Config config;
        config.magic = 0;
        GIVES(ncclInvalidArgument, ncclCommInitRankConfig(&comm, 2, new_id(), 0, config.get()));
        config = {};
        config.version = 0;
        GIVES(ncclInvalidArgument, ncclCommInitRankConfig(&comm, 2, new_id(), 0, config.get()));
        config = {};
        config.blocking = 2;
        GIVES(ncclInvalidArgument, ncclCommInitRankConfig(&comm, 2, new_id(), 0, config.get()));
        config = {};
        GIVES(ncclInvalidArgument, ncclCommInitRankConfig(&comm, 2, new_id(), 2, config.get()));
        GIVES(ncclInvalidArgument, ncclCommInitRankConfig(&comm, 2, ncclUniqueId{}, 0, config.get()));
    });
    fact("a meeting without the others goes on until it is aborted, and leaves nothing", [] {
        Life life;
        ncclComm_t comm;
        Config config;
        ncclUniqueId id = new_id();
        GIVES(ncclInProgress, ncclCommInitRankConfig(&comm, 2, id, 0, config.get()));
        GIVES(ncclInProgress, poll(comm, 0.05));
        CUdeviceptr x = life.memory(4);
        GIVES(ncclInvalidArgument, ncclAllReduce(Rank::at(x), Rank::at(x), 1, ncclFloat32, ncclSum, comm, nullptr));
        OK(ncclCommAbort(comm));
        THAT(access(("/dev/shm" + std::string(id.internal)).c_str(), F_OK) != 0);
    });
    fact("a communicator is not used before its first collective has connected it", [] {
        Life life;
        ncclComm_t comm;
        Config config;
        CUdeviceptr x = life.upload(std::vector<float>{1});
        OK(ncclCommInitRankConfig(&comm, 1, new_id(), 0, config.get()) == ncclInProgress ? 0 : 1);
        OK(poll(comm));
        auto reduce = [&] { return ncclAllReduce(Rank::at(x), Rank::at(x), 1, ncclFloat32, ncclSum, comm, nullptr); };
        GIVES(ncclInProgress, reduce());
        GIVES(ncclInvalidArgument, reduce());
        OK(poll(comm));
        OK(reduce());
        OK(ncclCommAbort(comm));
    });
    fact("two ranks can't sit on one seat", [] {
        Life life;
        ncclUniqueId id = new_id();
        ncclComm_t comms[2];
        Config config;
        for (ncclComm_t& comm : comms) GIVES(ncclInProgress, ncclCommInitRankConfig(&comm, 2, id, 0, config.get()));
        // Whoever comes second is refused; the other waits for rank 1.
        bool refused = false;
        for (int turn = 0; turn < 10000 && !refused; turn++) refused = poll(comms[turn % 2], 0.001) == ncclInvalidUsage;
        for (ncclComm_t comm : comms) OK(ncclCommAbort(comm));
        THAT(refused);
    });
    fact("with FAKE_NCCL_DISTINCT_DEVICES two ranks can't share a device", [] {
        setenv("FAKE_NCCL_DISTINCT_DEVICES", "1", 1);
        Life life;
        ncclUniqueId id = new_id();
        ncclComm_t comms[2];
        Config config;
        for (int rank = 0; rank < 2; rank++)
            GIVES(ncclInProgress, ncclCommInitRankConfig(&comms[rank], 2, id, rank, config.get()));
        for (ncclComm_t comm : comms) GIVES(ncclInvalidUsage, poll(comm));
        for (ncclComm_t comm : comms) OK(ncclCommAbort(comm));
        unsetenv("FAKE_NCCL_DISTINCT_DEVICES");
    });
    fact("what can't be added is refused", [] {
        Rank r(0, 1, new_id());
        CUdeviceptr x = r.memory(8);
        GIVES(ncclInvalidArgument, ncclAllReduce(Rank::at(x), Rank::at(x), 1, ncclFloat32, ncclRedOp_t(2), r.comm, r.s));
        GIVES(ncclInvalidArgument, ncclAllReduce(Rank::at(x), Rank::at(x), 1, ncclInt32, ncclSum, r.comm, r.s));
        GIVES(ncclInvalidArgument, ncclAllReduce(nullptr, Rank::at(x), 1, ncclFloat32, ncclSum, r.comm, r.s));
    });
    fact("a failing device frees its stream from a collective", [] {
        Life life{{"FAKE_CUDA_FAIL", "fake_scale:1:700"}};
        ncclUniqueId id = new_id();
        ncclComm_t comms[2];
        CUstream one = life.stream(), two = life.stream();
        CUdeviceptr x = life.upload(std::vector<float>{1});
        OK(ncclGroupStart());
        for (int rank = 0; rank < 2; rank++) OK(ncclCommInitRank(&comms[rank], 2, id, rank));
        OK(ncclGroupEnd());
        OK(ncclAllReduce(Rank::at(x), Rank::at(x), 1, ncclFloat32, ncclSum, comms[0], one));
        GIVES(CUDA_ERROR_NOT_READY, cuStreamQuery(one));
        OK(scale(life.function("fake_scale"), two, x, x, 1, 2));
        GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(one));
        for (ncclComm_t comm : comms) OK(ncclCommAbort(comm));
    });
}

}  // namespace

int main(int count, char** arguments) {
    if (count == 5) return rank_main(arguments);
    beginnings();
    in_one_process();
    between_processes();
    return summary();
}
