#error "a header of yoke::yoke includes <cuda_runtime.h>, which belongs to a component"
