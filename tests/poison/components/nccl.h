#error "a header of yoke::yoke includes <nccl.h>, which belongs to a component"
