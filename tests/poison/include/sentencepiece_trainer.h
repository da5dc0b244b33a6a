#error "a header of the model includes <sentencepiece_trainer.h>"
