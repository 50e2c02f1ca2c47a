# The library's targets. All are header-only; what differs is what they link.
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(fmt 9 REQUIRED)

add_library(lsaq INTERFACE)
add_library(lsaq::lsaq ALIAS lsaq)
target_compile_features(lsaq INTERFACE cxx_std_20)
target_link_libraries(lsaq INTERFACE Eigen3::Eigen fmt::fmt-header-only)
target_include_directories(lsaq INTERFACE
  $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/kernels>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# <lsaq/cuda.cuh>: for targets compiled by nvcc, which finds its runtime and Thrust itself. Architectures and the runtime's kind (static or shared) are the
# target's own properties. Eigen is used on the host only. An option for C++20, because CMake 3.25 has no feature for nvcc's.
add_library(lsaq_cuda INTERFACE)
add_library(lsaq::cuda ALIAS lsaq_cuda)
set_target_properties(lsaq_cuda PROPERTIES EXPORT_NAME cuda)
target_compile_options(lsaq_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
target_compile_definitions(lsaq_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:EIGEN_NO_CUDA>)
target_link_libraries(lsaq_cuda INTERFACE lsaq)

# For programs of many files that are built with the library's sources: the CPU kernels, compiled once. They are compiled for the baseline of this project's flags.
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/compiled_kernels.cpp CONTENT "#include <lsaq/kernels/cpu/all_kernels.hpp>\n")
add_library(lsaq_compiled_kernels STATIC EXCLUDE_FROM_ALL ${CMAKE_CURRENT_BINARY_DIR}/compiled_kernels.cpp)
add_library(lsaq::compiled_kernels ALIAS lsaq_compiled_kernels)
target_link_libraries(lsaq_compiled_kernels PUBLIC lsaq)
target_compile_definitions(lsaq_compiled_kernels PUBLIC LSAQ_EXTERN_KERNELS=1)

if(LSAQ_FORMATS OR LSAQ_LLAMA)
  find_package(nlohmann_json 3.9 REQUIRED)
  add_library(lsaq_formats INTERFACE)
  add_library(lsaq::formats ALIAS lsaq_formats)
  set_target_properties(lsaq_formats PROPERTIES EXPORT_NAME formats)
  target_link_libraries(lsaq_formats INTERFACE lsaq nlohmann_json::nlohmann_json)
endif()

if(LSAQ_LLAMA)
  find_package(ICU 66 REQUIRED COMPONENTS uc)
  list(APPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_LIST_DIR})
  find_package(SentencePiece REQUIRED)
  add_library(lsaq_llama INTERFACE)
  add_library(lsaq::llama ALIAS lsaq_llama)
  set_target_properties(lsaq_llama PROPERTIES EXPORT_NAME llama)
  target_link_libraries(lsaq_llama INTERFACE lsaq_formats ICU::uc SentencePiece::SentencePiece)
endif()
