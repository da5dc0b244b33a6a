#error "a header of yoke::yoke includes <sentencepiece_trainer.h>, which belongs to a component"
