# The CUDA toolchain: only with -DPARE_CUDA=ON (preset `cuda`).
set(CMAKE_CUDA_ARCHITECTURES ${PARE_CUDA_ARCHITECTURES})
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
enable_language(CUDA)
# CMake 3.25 does not know that nvcc has had this flag since 12.0.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "CUDA ${CMAKE_CUDA_COMPILER_VERSION} found; the kernels need 13.0 or newer")
endif()
find_package(CUDAToolkit 13.0 REQUIRED)

# Contraction is what the device kernels are written for: their tolerances are derived, not bit-exact against the CPU.
target_compile_options(pare_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--expt-extended-lambda;-lineinfo;-Xcompiler=-Wall,-Wextra,-Werror>")
target_compile_definitions(pare_options INTERFACE PARE_HAS_CUDA=1)
target_link_libraries(pare_options INTERFACE CUDA::cudart_static)
