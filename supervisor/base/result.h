// Result<T>: a value or an Error. An Error carries the errno of the failed operation (0 when there
// is none) and a sentence that names operation and subject, fit to be shown to an operator.
// "The tracee is gone" (ESRCH) is a normal outcome of any ptrace operation: is_gone().
#pragma once

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace supervise {

struct Error {
  int err = 0;
  std::string what;

  bool is_gone() const { return err == ESRCH; }
  // The sentence with the errno's text, for example "open /srv/x: Input/output error (EIO)".
  std::string message() const;
  // Puts "context: " in front.
  Error with(const std::string& context) const { return {err, context + ": " + what}; }
};

// Takes errno now.
Error errno_error(std::string what);
Error errno_error(int err, std::string what);
inline Error plain_error(std::string what) { return {0, std::move(what)}; }

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::move(value)) {}
  Result(Error error) : v_(std::move(error)) {}

  bool ok() const { return v_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() { return std::get<0>(v_); }
  const T& value() const { return std::get<0>(v_); }
  T take() { return std::move(std::get<0>(v_)); }
  T value_or(T other) const { return ok() ? std::get<0>(v_) : std::move(other); }
  const Error& error() const { return std::get<1>(v_); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Error> v_;
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : e_(std::move(error)) {}

  bool ok() const { return !e_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *e_; }
  void ignore() const {}

 private:
  std::optional<Error> e_;
};

inline Status ok_status() { return {}; }

#define SUPERVISE_CONCAT_(a, b) a##b
#define SUPERVISE_CONCAT(a, b) SUPERVISE_CONCAT_(a, b)

// Returns the error from the enclosing function.
#define RETURN_IF_ERROR(expr)                                  \
  do {                                                         \
    if (auto status_ = (expr); !status_) return status_.error(); \
  } while (0)

#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_(SUPERVISE_CONCAT(result_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                      \
  if (!tmp) return tmp.error();           \
  lhs = tmp.take()

}  // namespace supervise
