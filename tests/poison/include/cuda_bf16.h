#error "a header of the model includes <cuda_bf16.h>"
