#error "a header of the model includes <mpi.h>"
