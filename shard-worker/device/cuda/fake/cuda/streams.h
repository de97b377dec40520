// The handles of streams, among them the two that CUDA gives fixed values.
#pragma once

#include <memory>

#include "context.h"
#include "stream.h"

namespace fake {

/// Null if it is no stream of this context.
std::shared_ptr<Stream> find_stream(Context& context, CUstream handle);

}  // namespace fake
