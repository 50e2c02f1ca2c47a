// What a call is refused with, for tests of error sentences.
#pragma once

#include <lsaq/error.hpp>

#include <string>

namespace test_support {

/// The sentence of the E that `call` throws, or "accepted".
template <class E = lsaq::InvalidArgument, class Call> std::string refusal(Call&& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "accepted";
}

} // namespace test_support
