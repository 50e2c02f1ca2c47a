// What tests of results ask of the place they run in: the stand-in (stand_in_environment.cpp) or a device (device_environment.cpp).
#pragma once

#include <string>

namespace device_environment {

/// Before a test: why it can't run here; empty if it can.
std::string begin();

/// After a test: what was found wrong; empty if nothing was.
std::string end();

} // namespace device_environment
