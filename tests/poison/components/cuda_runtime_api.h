#error "a header of yoke::yoke includes <cuda_runtime_api.h>, which belongs to a component"
