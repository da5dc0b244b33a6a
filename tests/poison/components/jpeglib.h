#error "a header of yoke::yoke includes <jpeglib.h>, which belongs to a component"
