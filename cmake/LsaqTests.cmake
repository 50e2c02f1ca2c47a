# lsaq_add_tests(NAME SOURCES a_test.cpp ... LIBRARIES lsaq::lsaq ... [LABELS slow]): one GoogleTest program per folder, each case a CTest test.
find_package(GTest REQUIRED)
include(GoogleTest)

function(lsaq_add_tests name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  add_executable(lsaq_${name}_tests ${arg_SOURCES})
  target_link_libraries(lsaq_${name}_tests PRIVATE ${arg_LIBRARIES} GTest::gmock GTest::gtest_main)
  target_include_directories(lsaq_${name}_tests PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_precompile_headers(lsaq_${name}_tests PRIVATE <gmock/gmock.h> <gtest/gtest.h>)
  target_compile_options(lsaq_${name}_tests PRIVATE -Wall -Wextra -Wconversion -Wno-sign-conversion -Wundef -Wshadow -Werror)
  gtest_discover_tests(lsaq_${name}_tests TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST PROPERTIES LABELS "${arg_LABELS}")
endfunction()
