# lsaq_add_tests(NAME SOURCES a_test.cpp ... LIBRARIES lsaq::lsaq ... [LABELS slow] [FLAGS -O3 ...]): one GoogleTest program per folder, each case a CTest test.
# What a source needs only itself is in a namespace of the file's name, so that several can be compiled as one (CMAKE_UNITY_BUILD).
# With FLAGS of its own a program is compiled as the header-only library its users get; the others share headers of others and kernels, compiled once.
find_package(GTest REQUIRED)
include(GoogleTest)

set(LSAQ_TEST_SUITES "" CACHE STRING "Test programs to build, by name; empty: all")
set(lsaq_test_options -Wall -Wextra -Wconversion -Wno-sign-conversion -Wundef -Wshadow -Werror)

# Headers of others that most tests include are parsed once for all programs; they share the compile options, as a precompiled header demands. That every header
# of ours includes what it needs is tested elsewhere (tests/consumers).
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/test_headers.cpp CONTENT "")
add_library(lsaq_test_headers OBJECT ${CMAKE_CURRENT_BINARY_DIR}/test_headers.cpp)
target_link_libraries(lsaq_test_headers PRIVATE lsaq::lsaq lsaq::compiled_kernels GTest::gmock)
target_compile_options(lsaq_test_headers PRIVATE ${lsaq_test_options})
target_precompile_headers(lsaq_test_headers PRIVATE <gmock/gmock.h> <gtest/gtest.h> <Eigen/Core> <fmt/format.h> <algorithm> <filesystem> <fstream> <functional> <map>
  <random>)
if(TARGET nlohmann_json::nlohmann_json)
  target_link_libraries(lsaq_test_headers PRIVATE nlohmann_json::nlohmann_json)
  target_precompile_headers(lsaq_test_headers PRIVATE <nlohmann/json.hpp>)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  target_precompile_headers(lsaq_test_headers PRIVATE <immintrin.h>)
endif()

function(lsaq_add_tests name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES;LABELS;FLAGS" ${ARGN})
  if(LSAQ_TEST_SUITES AND NOT name IN_LIST LSAQ_TEST_SUITES)
    return()
  endif()
  add_executable(lsaq_${name}_tests ${arg_SOURCES})
  target_link_libraries(lsaq_${name}_tests PRIVATE ${arg_LIBRARIES} GTest::gmock GTest::gtest_main)
  target_include_directories(lsaq_${name}_tests PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_options(lsaq_${name}_tests PRIVATE ${lsaq_test_options} ${arg_FLAGS})
  if(NOT arg_FLAGS)
    target_link_libraries(lsaq_${name}_tests PRIVATE lsaq::compiled_kernels)
    target_precompile_headers(lsaq_${name}_tests REUSE_FROM lsaq_test_headers)
  endif()
  # Operators new and delete of its own: what they are seen beside is not to be optimized by them.
  set_source_files_properties(${PROJECT_SOURCE_DIR}/tests/deployment/count_allocations.cpp TARGET_DIRECTORY lsaq_${name}_tests
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  gtest_discover_tests(lsaq_${name}_tests TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST PROPERTIES LABELS "${arg_LABELS}")
endfunction()
