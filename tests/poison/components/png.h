#error "a header of yoke::yoke includes <png.h>, which belongs to a component"
