// yoke-train on a card; the rest of the program knows it by this one function.
#include "on_cuda.cuh"

void train_tool::train_on_cuda(settings const& s) {
  train_on(on_cuda{{.device = card_number(s.device), .tf32 = s.tf32, .graphs = s.cuda_graphs}}, s);
}
