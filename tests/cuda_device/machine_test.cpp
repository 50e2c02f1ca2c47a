// The interpreter: control flow, memory, warps, barriers; and that it notices what a device would not forgive.
#include "cuda_device/ptx_programs.hpp"

namespace machine_test {

using namespace ptx_programs;
using Words = std::vector<std::uint32_t>;

/// Thread t computes %r5 and writes it to word t.
std::string each(const std::string& body, const std::string& variables = "") {
  return kernel(body + "\nmul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r5;", variables);
}

TEST(PtxMachine, LoopsAndPredicates) {
  Machine machine;
  const Words words = run(machine, each(R"(
    mov.u32 %r5, 0;
    mov.u32 %r2, 0;
  again:
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra done;
    add.u32 %r5, %r5, %r2;
    add.u32 %r2, %r2, 1;
    bra.uni again;
  done:
    setp.eq.u32 %p2, %r1, 2;
    @%p2 mov.u32 %r5, 77;)"),
                          Words(5), 5);
  EXPECT_EQ(words, (Words{0, 0, 77, 3, 6}));
}

TEST(PtxMachine, ScopesOfInlineAssembly) {
  EXPECT_EQ(result("{ .reg .pred P; .reg .b32 hidden; setp.ne.u32 P, %r2, 0; mov.u32 hidden, 9; selp.u32 %r5, hidden, 1, P; }", 5), 9u);
}

TEST(PtxMachine, SharedMemoryAndBarriers) {
  Machine machine(3);
  const Words words = run(machine,
                          each(R"(
    shl.b32 %r2, %r1, 2;
    mov.u32 %r3, buffer;
    add.u32 %r4, %r3, %r2;
    st.shared.u32 [%r4], %r1;
    bar.sync 0;
    xor.b32 %r2, %r2, 252;
    add.u32 %r4, %r3, %r2;
    ld.shared.u32 %r5, [%r4];)",
                               ".shared .align 4 .b8 buffer[256];"),
                          Words(64), 64);
  for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(words[i], 63 - i);
  EXPECT_EQ(machine.races.races, 0u);
}

TEST(PtxMachine, AMissingBarrierIsARace) {
  Machine machine;
  const std::string body = R"(
    shl.b32 %r2, %r1, 2;
    mov.u32 %r3, buffer;
    add.u32 %r4, %r3, %r2;
    st.shared.u32 [%r4], %r1;
    ld.shared.u32 %r5, [buffer];)";
  run(machine, each(body, ".shared .align 4 .b8 buffer[256];"), Words(64), 64);
  EXPECT_GT(machine.races.races, 0u);
  EXPECT_NE(machine.races.first.find("ld.shared"), std::string::npos);
}

TEST(PtxMachine, BlocksThatWriteTheSameWordRace) {
  Machine machine;
  run(machine, kernel("st.global.u32 [%rd1], %r1;"), Words(1), 1, 2);
  EXPECT_EQ(machine.races.races, 4u); // bytes
  Machine atomic;
  EXPECT_EQ(run(atomic, kernel("red.global.add.u32 [%rd1], 3;"), Words(1), 32, 2)[0], 192u);
  EXPECT_EQ(atomic.races.races, 0u);
}

TEST(PtxMachine, Atomics) {
  Machine machine;
  EXPECT_EQ(run(machine, kernel("atom.global.max.u32 %r2, [%rd1], %r1; atom.global.cas.b32 %r3, [%rd1+4], 5, 9;"), Words{3, 5}, 8), (Words{7, 9}));
}

TEST(PtxMachine, WarpOperations) {
  const auto words = [](const std::string& body) {
    Machine machine(7);
    return run(machine, each(body), Words(32), 32);
  };
  EXPECT_EQ(words("shfl.sync.bfly.b32 %r5, %r1, 16, 31, -1;")[3], 19u);
  EXPECT_EQ(words("shfl.sync.up.b32 %r5|%p1, %r1, 2, 0, -1; @!%p1 mov.u32 %r5, 99;")[1], 99u);
  EXPECT_EQ(words("shfl.sync.up.b32 %r5, %r1, 2, 0, -1;")[9], 7u);
  EXPECT_EQ(words("shfl.sync.down.b32 %r5, %r1, 2, 31, -1;")[9], 11u);
  EXPECT_EQ(words("shfl.sync.idx.b32 %r5, %r1, 5, 31, -1;")[30], 5u);
  EXPECT_EQ(words("setp.lt.u32 %p1, %r1, 4; vote.sync.ballot.b32 %r5, %p1, -1;")[17], 15u);
  EXPECT_EQ(words("and.b32 %r2, %r1, 1; match.any.sync.b32 %r5, %r2, -1;")[1], 0xaaaaaaaau);
  EXPECT_EQ(words("redux.sync.add.s32 %r5, %r1, -1;")[0], 496u);
  EXPECT_EQ(words("mov.u32 %r5, %lanemask_lt;")[5], 31u);
}

TEST(PtxMachine, BarriersThatReduce) {
  Machine machine;
  const Words words = run(machine, each("setp.lt.u32 %p1, %r1, 40; barrier.red.popc.u32 %r5, 0, %p1;"), Words(64), 64);
  EXPECT_EQ(words[63], 40u);
}

TEST(PtxMachine, VectorsAndParts) {
  Machine machine;
  const Words words = run(machine,
                          kernel("ld.global.v2.u32 {%r2, %r3}, [%rd1]; mov.b64 %rd2, {%r3, %r2}; st.global.u64 [%rd1+8], %rd2;"
                                 "mov.b32 {%h1, %h2}, %r2; cvt.u32.u16 %r4, %h2; st.global.u32 [%rd1], %r4;"),
                          Words{0x00070005u, 6, 0, 0});
  EXPECT_EQ(words, (Words{7, 6, 6, 0x00070005u}));
}

TEST(PtxMachine, WhatNoDeviceWouldTake) {
  const auto expect = [](const std::string& found, const std::string& part) { EXPECT_NE(found.find(part), std::string::npos) << found; };
  expect(fault_of(kernel("ld.global.u32 %r2, [%rd1+256];")), "outside of every allocation");
  expect(fault_of(kernel("ld.global.u32 %r2, [%rd1-4];")), "outside of every allocation");
  expect(fault_of(kernel("ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1+4];")), "misaligned access of 16 bytes");
  expect(fault_of(kernel("ld.shared.u32 %r2, [buffer];", ".shared .align 4 .b8 buffer[16];")), "not written");
  expect(fault_of(kernel("st.shared.u32 [buffer+16], %r1;", ".shared .align 4 .b8 buffer[16];")), "outside of shared memory");
  expect(fault_of(kernel("setp.lt.u32 %p1, %r1, 3; @%p1 bra skip; bar.sync 0; skip:"), 64), "never reach");
  expect(fault_of(kernel("setp.lt.u32 %p1, %r1, 3; @%p1 bra skip; shfl.sync.bfly.b32 %r5, %r1, 1, 31, -1; skip:"), 32), "are not there");
  expect(fault_of(kernel("shfl.sync.bfly.b32 %r5, %r1, 1, 31, 1;"), 32), "not in its own mask");
  expect(fault_of(kernel("@%p1 mov.u32 %r2, 1;")), "predicate that was not set");
  expect(fault_of(kernel("ld.global.u32 %r2, [%rd5];")), "address that was not set");
  expect(fault_of(kernel("trap;")), "trap");
  expect(fault_of(kernel("wgmma.fence.sync.aligned;")), "not modelled: wgmma");
  expect(fault_of(kernel("add.rz.f32 %f1, %f1, %f1;")), "not modelled");
  expect(fault_of(kernel("add.ftz.f32 %f1, %f1, %f1;")), "not modelled: .ftz");
}

TEST(PtxMachine, MemoryThatIsOnlyRead) {
  Machine machine;
  const Module module = parse(kernel("st.global.u32 [%rd1], %r1;"));
  const std::uint32_t word = 5;
  const void* const pointer = &word;
  const void* const arguments[] = {&pointer};
  machine.memory.map(&word, 4, false);
  EXPECT_THROW(machine.launch(module, module.kernels.at("program"), arguments, {1}, {1}), Fault);
}

TEST(PtxMachine, EndlessProgramsEnd) {
  Machine machine;
  machine.limit = 1000;
  EXPECT_THROW(run(machine, kernel("again: bra again;"), Words(1)), Fault);
}

TEST(PtxMachine, ReadsOfUnsetRegistersAreCounted) {
  Machine machine;
  run(machine, kernel("add.u32 %r2, %r9, 1;"), Words(1), 3);
  EXPECT_EQ(machine.unset_reads, 3u);
}

TEST(PtxMachine, SectorsAndWavefronts) {
  const auto profile_of = [](const std::string& body, const std::string& variables = "") {
    Machine machine;
    machine.profiler.enabled = true;
    run(machine, kernel(body, variables), Words(32 * 32), 32);
    return machine.profiler.profiles.begin()->second;
  };
  const std::string contiguous = "mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; ld.global.u32 %r2, [%rd3];";
  const std::string apart = "mul.wide.u32 %rd2, %r1, 128; add.s64 %rd3, %rd1, %rd2; ld.global.u32 %r2, [%rd3];";
  EXPECT_EQ(profile_of(contiguous).requests, 1u);
  EXPECT_LE(profile_of(contiguous).sectors, 5u); // four, and one more where the words do not begin with a sector
  EXPECT_EQ(profile_of(contiguous).ideal, 4u);
  EXPECT_EQ(profile_of(apart).sectors, 32u);
  const std::string conflicts = "shl.b32 %r2, %r1, 7; mov.u32 %r3, buffer; add.u32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1;";
  EXPECT_EQ(profile_of(conflicts, ".shared .align 4 .b8 buffer[4096];").wavefronts, 32u);
}

TEST(PtxMachine, ConstantsAndGlobals) {
  Machine machine;
  EXPECT_EQ(run(machine, kernel("ld.global.u32 %r2, [table+4]; st.global.u32 [%rd1], %r2;", ".global .align 4 .u32 table[3] = {7, 8, 9};"), Words(1))[0], 8u);
}

} // namespace machine_test
