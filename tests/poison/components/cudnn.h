#error "a header of yoke::yoke includes <cudnn.h>, which belongs to a component"
