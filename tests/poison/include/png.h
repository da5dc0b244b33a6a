#error "a header of the model includes <png.h>"
