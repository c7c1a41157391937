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
set(pare_host_options -Xcompiler=-Wall,-Wextra)
if(pare_warnings_are_errors)
  string(APPEND pare_host_options ,-Werror)
endif()
target_compile_options(pare_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--expt-extended-lambda;-lineinfo;${pare_host_options}>")

# cuDNN's headers are wanted where attn=dense(impl=cudnn) is to be offered; its library is loaded at run time.
option(PARE_CUDNN "offer prompt attention by cuDNN (needs headers alone: cuDNN, its front end, NVRTC)" OFF)
set(PARE_CUDNN_INCLUDE "" CACHE STRING "folders of cudnn_frontend.h, cudnn.h and nvrtc.h, beside the toolkit's own")

# The headers are seen by the sources that name the library, so that all other objects are the same without it.
function(pare_use_cudnn)
  set(folders)
  foreach(header cudnn_frontend.h cudnn.h nvrtc.h)
    unset(folder CACHE)
    find_path(folder ${header} HINTS ${PARE_CUDNN_INCLUDE} ${CUDAToolkit_INCLUDE_DIRS} NO_CACHE)
    if(NOT folder)
      message(FATAL_ERROR "PARE_CUDNN: no ${header} in '${PARE_CUDNN_INCLUDE}' or the toolkit (PARE_CUDNN_INCLUDE)")
    endif()
    list(APPEND folders -isystem${folder})
    unset(folder)
  endforeach()
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS
    "${folders};-DPARE_HAS_CUDNN=1;-DCUDNN_FRONTEND_SKIP_JSON_LIB=1")
endfunction()

# For targets with sources that include the toolkit. The others are compiled as without CUDA, to the same objects.
function(pare_use_cuda)
  foreach(target ${ARGN})
    target_link_libraries(${target} PRIVATE CUDA::cudart_static)
    target_compile_definitions(${target} PRIVATE PARE_HAS_CUDA=1)
  endforeach()
endfunction()
