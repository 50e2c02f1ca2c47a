// A layer that can't say how many bytes it takes.
// expected-error: L is movable and has `Bytes bytes() const`
#include <lsaq/deployment/deployment.hpp>

struct Layer {
  lsaq::Bytes bytes() const { return 0; }
};

#ifdef WITH_ERROR
using Used = int;
#else
using Used = Layer;
#endif

std::size_t layers(const lsaq::Deployment<Used>& deployment) { return deployment.layers(); }
