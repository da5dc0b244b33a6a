#error "a header of yoke::yoke includes <cublasLt.h>, which belongs to a component"
