// Whether a device is there to be asked.
#pragma once

#include "switches.h"
#include "types.h"

namespace fake {

CUresult check_initialised();
CUresult check(CUdevice device);

}  // namespace fake
