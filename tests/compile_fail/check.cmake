# Compiles SOURCE twice: as it is, which must succeed, and with WITH_ERROR, which must fail with the sentence the source expects.
cmake_minimum_required(VERSION 3.23)

set(kind GNU)
if(COMPILER_ID MATCHES "Clang")
  set(kind Clang)
endif()
file(STRINGS ${SOURCE} expected REGEX "^// expected-error(\\(${kind}\\))?: ")
list(LENGTH expected count)
if(NOT count EQUAL 1)
  message(FATAL_ERROR "${SOURCE} has ${count} lines with an expected error for ${kind}; it needs one")
endif()
string(REGEX REPLACE "^// expected-error[^:]*: " "" sentence "${expected}")
string(REPLACE "\\;" ";" sentence "${sentence}") # as lists write it

set(ENV{LC_ALL} C) # messages in English, with plain quotes
list(REMOVE_ITEM INCLUDES "")
list(TRANSFORM INCLUDES PREPEND -I)
set(compile ${COMPILER} -std=c++20 -fsyntax-only -fmessage-length=0 ${INCLUDES} ${SOURCE})

execute_process(COMMAND ${compile} RESULT_VARIABLE result ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${SOURCE} must compile without its error, but does not:\n${output}")
endif()

execute_process(COMMAND ${compile} -DWITH_ERROR RESULT_VARIABLE result ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles with its error")
endif()
string(FIND "${output}" "${sentence}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "the error should say\n  ${sentence}\nbut says\n${output}")
endif()
