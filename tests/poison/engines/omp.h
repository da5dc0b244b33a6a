#error "a header of the model includes <omp.h>"
