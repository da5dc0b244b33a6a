#error "a header of the model includes <nccl.h>"
