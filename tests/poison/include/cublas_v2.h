#error "a header of the model includes <cublas_v2.h>"
