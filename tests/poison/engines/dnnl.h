#error "a header of the model includes <dnnl.h>"
