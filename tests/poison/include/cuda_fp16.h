#error "a header of the model includes <cuda_fp16.h>"
