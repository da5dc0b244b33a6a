#error "a header of yoke::yoke includes <turbojpeg.h>, which belongs to a component"
