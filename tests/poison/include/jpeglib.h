#error "a header of the model includes <jpeglib.h>"
