# Installs the headers and the packages that find them: CMake (lsaqConfig.cmake, also for the build tree) and pkg-config. Everything is relocatable and independent
# of the architecture.
include(CMakePackageConfigHelpers)

# Both roots end in one include folder. A target's file set holds the headers that need what this target links, so that CMAKE_VERIFY_INTERFACE_HEADER_SETS
# can compile each header alone.
function(lsaq_install_headers target)
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/kernels FILES ${ARGN})
  install(TARGETS ${target} EXPORT ${target}Targets COMPONENT lsaq FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT lsaq)
  install(EXPORT ${target}Targets NAMESPACE lsaq:: DESTINATION ${lsaq_package_dir} COMPONENT lsaq)
  export(EXPORT ${target}Targets NAMESPACE lsaq:: FILE ${PROJECT_BINARY_DIR}/${target}Targets.cmake)
endfunction()

set(lsaq_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/lsaq)

file(GLOB_RECURSE lsaq_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/*.hpp ${PROJECT_SOURCE_DIR}/kernels/*.hpp)
set(lsaq_formats_headers ${lsaq_headers})
list(FILTER lsaq_formats_headers INCLUDE REGEX "/include/lsaq/formats/")
set(lsaq_llama_headers ${lsaq_headers})
list(FILTER lsaq_llama_headers INCLUDE REGEX "/include/lsaq/models/")
list(FILTER lsaq_headers EXCLUDE REGEX "/include/lsaq/(formats|models)/")

set(lsaq_components "")
lsaq_install_headers(lsaq ${lsaq_headers})
foreach(component formats llama)
  if(TARGET lsaq_${component})
    lsaq_install_headers(lsaq_${component} ${lsaq_${component}_headers})
    list(APPEND lsaq_components ${component})
  endif()
endforeach()

# CUDA headers are compiled by nvcc alone: installed, but not part of what a C++ compiler verifies.
lsaq_install_headers(lsaq_cuda)
list(APPEND lsaq_components cuda)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ ${PROJECT_SOURCE_DIR}/kernels/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT lsaq
  FILES_MATCHING PATTERN "*.cuh")

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/lsaqConfig.cmake.in ${PROJECT_BINARY_DIR}/lsaqConfig.cmake
  INSTALL_DESTINATION ${lsaq_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lsaqConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
configure_file(${CMAKE_CURRENT_LIST_DIR}/FindSentencePiece.cmake ${PROJECT_BINARY_DIR}/FindSentencePiece.cmake COPYONLY)
install(FILES ${PROJECT_BINARY_DIR}/lsaqConfig.cmake ${PROJECT_BINARY_DIR}/lsaqConfigVersion.cmake ${CMAKE_CURRENT_LIST_DIR}/FindSentencePiece.cmake
  DESTINATION ${lsaq_package_dir} COMPONENT lsaq)

# The way from lsaq.pc back to the prefix: pkg-config replaces ${pcfiledir}, so that the installed tree can be moved.
set(lsaq_pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
file(RELATIVE_PATH lsaq_pc_to_prefix /prefix/${lsaq_pkgconfig_dir} /prefix)
set(lsaq_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
if(IS_ABSOLUTE ${CMAKE_INSTALL_INCLUDEDIR})
  set(lsaq_pc_includedir ${CMAKE_INSTALL_INCLUDEDIR})
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/lsaq.pc.in ${PROJECT_BINARY_DIR}/lsaq.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/lsaq.pc DESTINATION ${lsaq_pkgconfig_dir} COMPONENT lsaq)
