#error "a header of the model includes <oneapi/dnnl/dnnl.h>"
