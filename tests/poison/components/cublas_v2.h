#error "a header of yoke::yoke includes <cublas_v2.h>, which belongs to a component"
