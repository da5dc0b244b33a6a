#error "a header of yoke::yoke includes <cuda_fp16.h>, which belongs to a component"
