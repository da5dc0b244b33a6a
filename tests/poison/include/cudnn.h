#error "a header of the model includes <cudnn.h>"
