// The bytes of a piece of a file, in memory that is asked for and given back in large parts: a journal takes
// hundreds of MiB within a second, and page faults would cost several times what copying does. Not for
// several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace supervise {

class Content {
 public:
  Content() = default;
  explicit Content(std::span<const std::byte> bytes) { append(bytes); }
  Content(const Content& other) : Content(std::span<const std::byte>(other)) {}
  Content(Content&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  Content& operator=(Content other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }
  ~Content();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const std::byte* begin() const { return data_; }
  const std::byte* end() const { return data_ + size_; }

  void append(std::span<const std::byte> bytes);
  void write(std::size_t at, std::span<const std::byte> bytes);  // over what is there
  void cut(std::size_t size);  // to no more than that

  // Memory that all contents have taken from the system, with what is kept for the next ones.
  static std::uint64_t taken();

 private:
  std::byte* data_ = nullptr;
  std::uint32_t size_ = 0, capacity_ = 0;
};

}  // namespace supervise
