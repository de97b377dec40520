// What the fake's tests share: facts, a device's life under given switches, and children for what ends a process.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "calls.h"

namespace test {

inline int passed, failed;

inline void expect(bool holds, const char* what, const char* file, int line, int found) {
    if (holds) return;
    char text[512];
    snprintf(text, sizeof text, "%s:%d: %s (found %d)", file, line, what, found);
    throw std::runtime_error(text);
}

#define THAT(condition) test::expect(condition, #condition, __FILE__, __LINE__, 0)
#define GIVES(result, call)                                                                       \
    do {                                                                                          \
        int found_ = int(call);                                                                   \
        test::expect(found_ == int(result), #call " gives " #result, __FILE__, __LINE__, found_); \
    } while (false)
#define OK(call) GIVES(0, call)

inline void fact(const char* name, const std::function<void()>& body) {
    try {
        body();
        passed++;
        printf("ok      %s\n", name);
    } catch (const std::exception& error) {
        failed++;
        printf("FAILED  %s: %s\n", name, error.what());
    }
    fflush(stdout);
}

inline int summary() {
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}

/// A device from the first retain of its context to the last release, under switches of its own.
class Life {
  public:
    explicit Life(std::initializer_list<std::pair<const char*, const char*>> switches = {}) : switches_(switches) {
        for (auto& [name, value] : switches_) setenv(name, value, 1);
        OK(cuInit(0));
        OK(cuDevicePrimaryCtxRetain(&context, 0));
        OK(cuCtxSetCurrent(context));
        OK(cuModuleLoadData(&module, "//\n.version 9.0\n"));
    }
    ~Life() {
        cuDevicePrimaryCtxRelease_v2(0);
        for (auto& [name, value] : switches_) unsetenv(name);
    }

    CUfunction function(const char* name) {
        CUfunction found;
        OK(cuModuleGetFunction(&found, module, name));
        return found;
    }
    CUstream stream() {
        CUstream made;
        OK(cuStreamCreate(&made, 1));
        return made;
    }
    CUevent event(unsigned flags = 0) {
        CUevent made;
        OK(cuEventCreate(&made, flags));
        return made;
    }
    CUdeviceptr memory(size_t bytes) {
        CUdeviceptr address;
        OK(cuMemAlloc_v2(&address, bytes));
        return address;
    }
    template <class T>
    T* pinned(size_t count) {
        void* address;
        OK(cuMemHostAlloc(&address, count * sizeof(T), 0));
        return static_cast<T*>(address);
    }
    template <class T>
    CUdeviceptr upload(const std::vector<T>& values) {
        CUdeviceptr address = memory(values.size() * sizeof(T));
        OK(cuMemcpyHtoD_v2(address, values.data(), values.size() * sizeof(T)));
        return address;
    }
    template <class T>
    std::vector<T> download(CUdeviceptr address, size_t count) {
        std::vector<T> values(count);
        OK(cuMemcpyDtoH_v2(values.data(), address, count * sizeof(T)));
        return values;
    }

    CUcontext context;
    CUmodule module;

  private:
    std::vector<std::pair<const char*, const char*>> switches_;
};

/// Launches fake_scale: out[i] = x[i] * by.
inline CUresult scale(CUfunction function, CUstream stream, CUdeviceptr x, CUdeviceptr out, int n, float by) {
    void* arguments[] = {&x, &out, &n, &by};
    return cuLaunchKernel(function, unsigned(n + 63) / 64, 1, 1, 64, 1, 1, 0, stream, arguments, nullptr);
}

/// Runs `body` in a process of its own; gives its exit status, and what it wrote to stderr.
inline int in_child(const std::function<int()>& body, std::string* complaints = nullptr) {
    int pipe_ends[2];
    if (pipe(pipe_ends)) return -1;
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        dup2(pipe_ends[1], 2);
        int status;
        try {
            status = body();
        } catch (const std::exception& error) {
            fprintf(stderr, "%s\n", error.what());
            status = 99;
        }
        exit(status);
    }
    close(pipe_ends[1]);
    char buffer[4096];
    std::string text;
    for (ssize_t n; (n = read(pipe_ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
    close(pipe_ends[0]);
    int status;
    waitpid(child, &status, 0);
    if (complaints)
        *complaints = text;
    else
        fputs(text.c_str(), stderr);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace test
