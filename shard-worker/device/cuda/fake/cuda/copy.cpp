// Copies and fills. Host memory that the driver does not know (pageable) is read before the call returns, and written
// before it returns; pinned memory is touched when the copy's turn comes. In a capture nothing is touched before the
// graph's launch, and the host's memory has to live as long.
#include <cstring>

#include "capture.h"
#include "memory.h"
#include "streams.h"

using namespace fake;

namespace {

const char* pointer(CUdeviceptr address) { return reinterpret_cast<const char*>(address); }

/// One side of a copy: `rows` runs of `width` bytes, `pitch` bytes apart.
struct Side {
    char* start;
    size_t pitch;
    bool on_device;
};

struct Copy {
    Side to, from;
    size_t width, rows;

    size_t span(const Side& side) const { return (rows - 1) * side.pitch + width; }
    bool reaches(const Side& side) const { return !side.on_device || is_accessible(side.start, span(side)); }
    bool is_pageable(const Side& side) const { return !side.on_device && !is_pinned(side.start); }

    CUresult run() const {
        // It was accessible at the call; it may have been freed since.
        if (!reaches(to) || !reaches(from)) return CUDA_ERROR_ILLEGAL_ADDRESS;
        for (size_t row = 0; row < rows; row++) memmove(to.start + row * to.pitch, from.start + row * from.pitch, width);
        return CUDA_SUCCESS;
    }
};

/// The copy from what the source holds now.
Operation from_staging(Copy copy) {
    auto staging = std::make_shared<std::vector<char>>(copy.width * copy.rows);
    for (size_t row = 0; row < copy.rows; row++)
        memcpy(staging->data() + row * copy.width, copy.from.start + row * copy.from.pitch, copy.width);
    copy.from = {staging->data(), copy.width, false};
    return {[copy, staging] { return copy.run(); }};
}

CUresult enqueue(Stream& stream, const Copy& copy) {
    if (!copy.width || !copy.rows) return CUDA_SUCCESS;
    if (copy.to.pitch < copy.width || copy.from.pitch < copy.width) return CUDA_ERROR_INVALID_VALUE;
    if (!copy.reaches(copy.to) || !copy.reaches(copy.from)) return CUDA_ERROR_INVALID_VALUE;
    bool captured = capture_status(stream) != CU_STREAM_CAPTURE_STATUS_NONE;
    bool staged = !captured && copy.is_pageable(copy.from);
    CUresult result = submit(stream, staged ? from_staging(copy) : Operation{[copy] { return copy.run(); }});
    if (!result && !captured && copy.is_pageable(copy.to)) stream.wait(stream.last());
    return result;
}

CUresult copy_on(CUstream handle, const Copy& copy) {
    return in_context([&](Context& context) {
        auto stream = find_stream(context, handle);
        return stream ? enqueue(*stream, copy) : CUDA_ERROR_INVALID_HANDLE;
    });
}

/// Copies on the legacy stream, and returns when they are done.
CUresult copy_now(const Copy& copy) {
    CUresult result = in_context([&](Context& context) {
        if (CUresult error = refuse_unsafe()) return error;
        auto stream = context.legacy_stream();
        CUresult error = enqueue(*stream, copy);
        if (!error) stream->wait(stream->last());
        return error;
    });
    return result ? result : in_context([](Context&) { return CUDA_SUCCESS; });
}

Side host(const void* address, size_t pitch) { return {static_cast<char*>(const_cast<void*>(address)), pitch, false}; }
Side device(CUdeviceptr address, size_t pitch) { return {const_cast<char*>(pointer(address)), pitch, true}; }
Copy to_device(CUdeviceptr to, const void* from, size_t bytes) { return {device(to, bytes), host(from, bytes), bytes, 1}; }
Copy to_host(void* to, CUdeviceptr from, size_t bytes) { return {host(to, bytes), device(from, bytes), bytes, 1}; }
Copy on_device(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return {device(to, bytes), device(from, bytes), bytes, 1}; }

/// Whether the description can be had here: arrays can't.
bool read(const CUDA_MEMCPY2D& c, Copy& copy) {
    if (c.srcMemoryType == CU_MEMORYTYPE_ARRAY || c.dstMemoryType == CU_MEMORYTYPE_ARRAY) return false;
    copy.width = c.WidthInBytes, copy.rows = c.Height;
    copy.from = c.srcMemoryType == CU_MEMORYTYPE_HOST ? host(c.srcHost, c.srcPitch) : device(c.srcDevice, c.srcPitch);
    copy.to = c.dstMemoryType == CU_MEMORYTYPE_HOST ? host(c.dstHost, c.dstPitch) : device(c.dstDevice, c.dstPitch);
    // A single row needs no pitch.
    if (!copy.from.pitch) copy.from.pitch = copy.width + c.srcXInBytes;
    if (!copy.to.pitch) copy.to.pitch = copy.width + c.dstXInBytes;
    copy.from.start += c.srcY * copy.from.pitch + c.srcXInBytes;
    copy.to.start += c.dstY * copy.to.pitch + c.dstXInBytes;
    return true;
}

template <class Number>
CUresult fill(CUstream handle, CUdeviceptr address, Number value, size_t count) {
    return in_context([&](Context& context) {
        auto stream = find_stream(context, handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (!count) return CUDA_SUCCESS;
        if (address % sizeof(Number) || !is_accessible(pointer(address), count * sizeof(Number))) return CUDA_ERROR_INVALID_VALUE;
        return submit(*stream, {[=] {
            if (!is_accessible(pointer(address), count * sizeof(Number))) return CUDA_ERROR_ILLEGAL_ADDRESS;
            Number* numbers = reinterpret_cast<Number*>(address);
            for (size_t i = 0; i < count; i++) numbers[i] = value;
            return CUDA_SUCCESS;
        }});
    });
}

}  // namespace

API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    return copy_on(stream, to_device(to, from, bytes));
}
API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_on(stream, to_host(to, from, bytes));
}
API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_on(stream, on_device(to, from, bytes));
}
API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) { return copy_now(to_device(to, from, bytes)); }
API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) { return copy_now(to_host(to, from, bytes)); }
API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return copy_now(on_device(to, from, bytes)); }

API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return copy_on(stream, on_device(to, from, bytes));
}

API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* description, CUstream stream) {
    Copy copy;
    if (!description) return CUDA_ERROR_INVALID_VALUE;
    return read(*description, copy) ? copy_on(stream, copy) : CUDA_ERROR_NOT_SUPPORTED;
}

API CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* description) {
    Copy copy;
    if (!description) return CUDA_ERROR_INVALID_VALUE;
    return read(*description, copy) ? copy_now(copy) : CUDA_ERROR_NOT_SUPPORTED;
}

API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    return fill(stream, to, value, count);
}
API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
    return fill(stream, to, value, count);
}
API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    return fill(stream, to, value, count);
}
API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) { return fill(nullptr, to, value, count); }
API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) { return fill(nullptr, to, value, count); }
