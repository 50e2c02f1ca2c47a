# cmake -DPROGRAM=... -DINSPECTED=... -DOBJDUMP=... -P: runs PROGRAM, then looks at the code of INSPECTED. A function of the library that plain translation units
# may call must not hold AVX instructions: one that is tagged x86_64 and is no named kernel, or one that carries no instruction set in its name. Left out are the
# constructors, destructors and assignments of plain data, which every translation unit has to share, and clones (name.part.0), which are local to theirs.
execute_process(COMMAND ${PROGRAM} COMMAND_ERROR_IS_FATAL ANY)
if(NOT OBJDUMP)
  message(STATUS "no objdump: the code itself was not looked at")
  return()
endif()

execute_process(COMMAND ${OBJDUMP} --disassemble --no-show-raw-insn ${INSPECTED} OUTPUT_FILE ${INSPECTED}.asm COMMAND_ERROR_IS_FATAL ANY)
# Lines of interest only: the head of each function, instructions of AVX and later (their names begin with v), and mask registers.
file(STRINGS ${INSPECTED}.asm lines REGEX "^[0-9a-f]+ <.*>:$|\tv[a-z]|%k[0-7]")
set(watched FALSE)
set(plain 0)
set(guilty "")
foreach(line IN LISTS lines)
  if(line MATCHES "^[0-9a-f]+ <(.*)>:$")
    set(function ${CMAKE_MATCH_1})
    set(watched FALSE)
    # Mangled names: lsaq::v0:: at their head, for what is declared there and not merely a template argument.
    if(function MATCHES "^_ZZ*NK*4lsaq2v0" AND NOT function MATCHES "^_ZZ*NK*4lsaq2v0[0-9]+x86_(avx|sse)|avx2|avx512|avxvnni|3amx|[.]"
       AND (function MATCHES "4lsaq2v06x86_64" OR NOT function MATCHES "^_ZN4lsaq2v0[0-9A-Za-z_]+(C[12]|D[012]|aS)E"))
      set(watched TRUE)
      math(EXPR plain "${plain} + 1")
    endif()
  elseif(watched)
    list(APPEND guilty ${function})
    set(watched FALSE)
  endif()
endforeach()

if(plain EQUAL 0)
  message(FATAL_ERROR "no function of the library was found in ${INSPECTED}: the check sees nothing")
endif()
if(guilty)
  list(JOIN guilty "\n  " guilty)
  message(FATAL_ERROR "functions that plain code may run hold AVX instructions:\n  ${guilty}")
endif()
message(STATUS "${plain} functions may run on any x86-64 processor")
