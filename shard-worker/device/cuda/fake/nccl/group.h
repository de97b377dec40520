// Groups: what is called between ncclGroupStart and ncclGroupEnd begins at the end, all together.
#pragma once

#include <functional>

#include "types.h"

namespace fake {

/// Runs `call` now, or at the end of the group that this thread is in.
ncclResult_t now_or_at_group_end(std::function<ncclResult_t()> call);

}  // namespace fake
