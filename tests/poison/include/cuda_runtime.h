#error "a header of the model includes <cuda_runtime.h>"
