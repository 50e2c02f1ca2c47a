// The devices of the command: what things are measured on, and what answers.
#pragma once

#include <lsaq/deployment/cpu.hpp>

namespace command {

/// Keeps activations as FP32, so that measurements are of the weights alone.
using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;
/// As engines deploy: the fastest.
using FastDevice = lsaq::Backend<lsaq::Cpu>;

} // namespace command
