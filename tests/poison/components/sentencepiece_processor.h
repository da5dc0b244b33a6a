#error "a header of yoke::yoke includes <sentencepiece_processor.h>, which belongs to a component"
