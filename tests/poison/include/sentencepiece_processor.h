#error "a header of the model includes <sentencepiece_processor.h>"
