#error "a header of yoke::yoke includes <cuda_bf16.h>, which belongs to a component"
