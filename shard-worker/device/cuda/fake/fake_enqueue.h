// What the fake libcuda gives the other two libraries: work of their own on a stream, in a capture as well.
#pragma once

#include <cstddef>

extern "C" {

/// Puts `run(argument)` on a stream of the current context; in a capture it becomes a node and runs at each launch of
/// the graph. A result other than 0 is a CUresult that fails the context. `drop(argument)` is called once it can't run
/// again. `may_block` is for work that waits for somebody: it runs on the stream's own thread.
/// `name` is what the switches that count launches call it. Returns a CUresult; after an error `drop` has been called.
int fakeEnqueue(void* stream, const char* name, int (*run)(void*), void (*drop)(void*), void* argument, int may_block);

/// Inside `run`: the error of the context that the work is for, 0 while all is well. Work that waits gives up at one.
int fakeError(void);

/// Whether the bytes lie in one live allocation: 1 or 0.
int fakeAccessible(const void* address, size_t bytes);

/// Whether a stream of the current context is being captured: 1 or 0.
int fakeCapturing(void* stream);
}
