#include <lsaq/lsaq.hpp>

lsaq::PackedMatrix quantized(lsaq::MatrixView weights) { return lsaq::Quantizer<lsaq::PerChannel, 8>{}(weights); }
