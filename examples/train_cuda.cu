// yoke-train on a card; the rest of the program knows it by this one function.
#include "on_cuda.cuh"

void train_tool::train_on_cuda(launched_ranks& ranks, settings const& s) {
  auto const card = s.device == "cuda" && ranks.size() > 1 ? ranks.local_rank() : card_number(s.device);
  train_on(on_cuda{ranks, {.device = card, .tf32 = s.tf32, .graphs = s.cuda_graphs}}, s);
}
