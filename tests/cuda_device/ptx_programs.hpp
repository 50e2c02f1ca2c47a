// Small PTX programs for the interpreter's own tests.
#pragma once

#include "cuda_device/machine.hpp"

#include <gtest/gtest.h>

namespace ptx_programs {

using namespace cuda_device;

/// A kernel of one parameter, an address in %rd1; `body` may use %r1 (the thread), %r2 .. %r9, %rd2 .. %rd9, %p1 .. %p3, %f1 .. %f5, %h1 .. %h5.
inline std::string kernel(const std::string& body, const std::string& variables = "") {
  return ".version 9.0\n.target sm_75\n.address_size 64\n" + variables +
         R"(
.visible .entry program(.param .u64 program_param_0)
{
  .reg .pred %p<4>;
  .reg .b32 %r<10>;
  .reg .b64 %rd<10>;
  .reg .f32 %f<6>;
  .reg .b16 %h<6>;
  ld.param.u64 %rd1, [program_param_0]; // where results go
  mov.u32 %r1, %tid.x;
)" + body +
         "\n  ret;\n}\n";
}

/// Runs a program on `words`; what they are then. The machine is the caller's, to look at.
inline std::vector<std::uint32_t> run(Machine& machine, const std::string& text, std::vector<std::uint32_t> words, unsigned threads = 1, unsigned blocks = 1) {
  const Module module = parse(text);
  const void* const pointer = words.data();
  const void* const arguments[] = {&pointer};
  machine.memory.map(words.data(), words.size() * 4);
  try {
    machine.launch(module, module.kernels.at("program"), arguments, {blocks}, {threads});
  } catch (...) {
    machine.memory.unmap(words.data());
    throw;
  }
  machine.memory.unmap(words.data());
  return words;
}

/// The sentence of the Fault that a program ends with, or "".
inline std::string fault_of(const std::string& text, unsigned threads = 1, std::size_t count = 64) {
  Machine machine;
  try {
    run(machine, text, std::vector<std::uint32_t>(count), threads);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

/// What an instruction gives that reads registers %r2, %r3, %r4 and writes %r5.
inline std::uint32_t result(const std::string& instruction, std::uint32_t a, std::uint32_t b = 0, std::uint32_t c = 0) {
  Machine machine;
  return run(machine,
             kernel("ld.global.u32 %r2, [%rd1]; ld.global.u32 %r3, [%rd1+4]; ld.global.u32 %r4, [%rd1+8];\n" + instruction + "\nst.global.u32 [%rd1], %r5;"),
             {a, b, c})[0];
}

} // namespace ptx_programs
