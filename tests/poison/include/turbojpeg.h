#error "a header of the model includes <turbojpeg.h>"
