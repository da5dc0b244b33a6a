# The components yoke::cuda and yoke::nccl: there when a CUDA toolkit is found, silently absent without one.
# Sets YOKE_HAS_CUDA when Yoke's own CUDA programs can be built, which needs nvcc as well.
file(GLOB nccl_headers CONFIGURE_DEPENDS include/yoke/cuda/nccl*.cuh)
file(GLOB cuda_headers CONFIGURE_DEPENDS include/yoke/cuda/*.cuh)
list(REMOVE_ITEM cuda_headers ${nccl_headers})

find_package(CUDAToolkit 12.8 QUIET)
if(NOT CUDAToolkit_FOUND OR NOT TARGET CUDA::cublasLt)
  return()
endif()
yoke_component(cuda HEADERS ${cuda_headers} LIBRARIES CUDA::cudart_static CUDA::cublasLt)
# CMake 3.25 does not know C++20 of nvcc; the option says the same.
target_compile_options(yoke_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
set(cuda_components yoke_cuda)
find_package(NCCL 2.18 QUIET)
if(NCCL_FOUND)
  yoke_component(nccl HEADERS ${nccl_headers} LIBRARIES yoke::cuda NCCL::NCCL)
  list(APPEND cuda_components yoke_nccl)
endif()

if(PROJECT_IS_TOP_LEVEL AND CUDAToolkit_NVCC_EXECUTABLE)
  execute_process(COMMAND nvidia-smi -L RESULT_VARIABLE yoke_no_card OUTPUT_QUIET ERROR_QUIET)
  # For the card that is here. Without one tests, benchmarks, the lesson and yoke-train are compiled for one kind and with
  # little effort, to see that they compile: they run nowhere else.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    if(yoke_no_card)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real)
      # Kept for the next time CMake runs, when the others are known already.
      set(yoke_sample_architectures 90-real CACHE INTERNAL "")
      set(yoke_test_architectures 90-virtual CACHE INTERNAL "")  # the lesson makes machine code of the kernels
    else()
      set(CMAKE_CUDA_ARCHITECTURES native)
    endif()
  endif()
  if(NOT yoke_sample_architectures)
    set(yoke_sample_architectures ${CMAKE_CUDA_ARCHITECTURES})
    set(yoke_test_architectures ${CMAKE_CUDA_ARCHITECTURES})
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  enable_language(CUDA)
  if(yoke_no_card)
    string(REPLACE "-O3" "-O1" CMAKE_CUDA_FLAGS_RELEASE "${CMAKE_CUDA_FLAGS_RELEASE}")
  endif()
  set(YOKE_HAS_CUDA TRUE)
endif()
