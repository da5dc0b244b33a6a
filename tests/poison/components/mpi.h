#error "a header of yoke::yoke includes <mpi.h>, which belongs to a component"
