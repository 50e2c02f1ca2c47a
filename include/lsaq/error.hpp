// Errors: set-up throws by category, the hot path returns Status.
//
// Built with -fno-exceptions, a throwing call prints its message and aborts; the twins that return Expected never throw in either build.
#pragma once

#include <lsaq/config.hpp>
#include <lsaq/types.hpp>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

namespace lsaq::inline v0 {

/// Base of every error the library throws; what() names what was found, its value and the limit.
struct [[gnu::visibility("default")]] Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An argument the call can't work with: shapes that do not match, bits out of range.
struct [[gnu::visibility("default")]] InvalidArgument : Error {
  using Error::Error;
};

/// No plan within the budget; `missing` is how many bytes more the smallest plan needs.
struct [[gnu::visibility("default")]] Infeasible : Error {
  Infeasible(const std::string& message, Bytes missing_bytes) : Error(message), missing(missing_bytes) {}
  Bytes missing;
};

/// A file or its contents that can't be used: malformed, truncated, unsupported, not finite.
struct [[gnu::visibility("default")]] BadInput : Error {
  using Error::Error;
};

/// The operating system refused to read, write or map.
struct [[gnu::visibility("default")]] IoError : Error {
  using Error::Error;
};

/// Result of a call on the hot path.
enum class Status : std::uint8_t { ok, shape_mismatch, workspace_too_small, unsupported, device_error };

constexpr const char* message_of(Status status) noexcept {
  switch (status) {
  case Status::ok: return "ok";
  case Status::shape_mismatch: return "the shapes of weights, input and output do not match";
  case Status::workspace_too_small: return "the workspace is smaller than workspace_bytes()";
  case Status::unsupported: return "this bit width or element type has no kernel";
  case Status::device_error: return "the device's runtime refused the call; its last error says why";
  }
  return "unknown status";
}

/// A value or the error that prevented it; for callers that build without exceptions or expect failure.
template <class T> class Expected {
public:
  struct Failure {
    std::string message;
    Bytes missing = 0; ///< for an infeasible plan: bytes it lacks
  };

  Expected(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Expected(Failure failure) : content_(std::in_place_index<1>, std::move(failure)) {}

  bool has_value() const noexcept { return content_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  const T& value() const { return *check(std::get_if<0>(&content_)); }
  T& value() { return *check(std::get_if<0>(&content_)); }
  const T& operator*() const { return value(); }
  const T* operator->() const { return &value(); }
  const Failure& error() const { return *check(std::get_if<1>(&content_)); }

private:
  template <class P> static P* check(P* p) {
    LSAQ_ASSERT(p != nullptr && "Expected: test has_value() before reading");
    return p;
  }
  std::variant<T, Failure> content_;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Throws E(arguments...), or prints the message and aborts where exceptions are disabled. Cold: callers stay small.
template <class E, class... Rest> [[noreturn, gnu::cold, gnu::noinline]] void fail(const std::string& message, [[maybe_unused]] Rest... rest) {
#if LSAQ_EXCEPTIONS
  throw E(message, rest...);
#else
  std::fprintf(stderr, "lsaq: %s\n", message.c_str());
  std::abort();
#endif
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
