#error "a header of the model includes <cublasLt.h>"
