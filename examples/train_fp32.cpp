// yoke-train on the processor in fp32; train.cpp has bf16.
#include "on_cpu.hpp"

template void train_tool::train<train_tool::on_cpu, float>(train_tool::on_cpu const&, train_tool::settings);
