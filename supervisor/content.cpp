#include "supervisor/content.h"

#include <emmintrin.h>
#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <new>

namespace supervise {
namespace {

// Blocks of 4 KiB and more come from slabs, each with blocks of one size. Slabs are as large as a huge page,
// and are one as soon as there are some.
constexpr std::size_t kSlab = 2 << 20, kSmallest = 4096, kLargest = 65536, kSizes = kLargest / kSmallest;
constexpr std::size_t kSpare = 256, kKept = 8, kSmallSlabs = 8;
constexpr std::size_t kHead = 64;

struct Slab {
  Slab *next, *previous;  // of those with free blocks, by size
  void* free;             // list of blocks that were given back
  std::uint32_t fresh;    // offset from which on no block was ever used
  std::uint32_t used;
  std::uint32_t size;     // of a block
};
static_assert(sizeof(Slab) <= kHead);

class Pool {
 public:
  std::byte* take(std::size_t size) {
    Slab*& first = open_[size / kSmallest - 1];
    if (!first) {
      first = make();
      first->next = first->previous = nullptr;
      first->free = nullptr;
      first->fresh = kHead;
      first->used = 0;
      first->size = static_cast<std::uint32_t>(size);
    }
    Slab* s = first;
    void* block = s->free;
    if (block) {
      memcpy(&s->free, block, sizeof(void*));
    } else {
      block = reinterpret_cast<std::byte*>(s) + s->fresh;
      s->fresh += s->size;
    }
    ++s->used;
    if (full(*s)) unlink(*s, first);
    return static_cast<std::byte*>(block);
  }

  void give(std::byte* block, std::size_t size) {
    auto* s = reinterpret_cast<Slab*>(reinterpret_cast<std::uintptr_t>(block) & ~(kSlab - 1));
    Slab*& first = open_[size / kSmallest - 1];
    if (full(*s)) link(*s, first);
    memcpy(block, &s->free, sizeof(void*));
    s->free = block;
    if (--s->used > 0 || (first == s && !s->next)) return;
    unlink(*s, first);
    if (spares_ < kSpare) {
      // The kernel may take it when it needs memory; until then it need not be cleared to be used again.
      if (spares_ >= kKept) madvise(s, kSlab, MADV_FREE);
      spare_[spares_++] = s;
      return;
    }
    munmap(s, kSlab);
    --slabs_;
  }

  std::uint64_t taken() const { return slabs_ * kSlab; }

 private:
  static bool full(const Slab& s) { return !s.free && s.fresh + s.size > kSlab; }

  static void link(Slab& s, Slab*& first) {
    s.previous = nullptr;
    s.next = first;
    if (first) first->previous = &s;
    first = &s;
  }
  static void unlink(Slab& s, Slab*& first) {
    (s.previous ? s.previous->next : first) = s.next;
    if (s.next) s.next->previous = s.previous;
  }

  Slab* make() {
    if (spares_ > 0) return spare_[--spares_];
    // A mapping of twice the size has an aligned one in it.
    void* at = mmap(nullptr, 2 * kSlab, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    auto* from = static_cast<std::byte*>(at);
    auto* slab = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(at) + kSlab - 1) & ~(kSlab - 1));
    if (slab > from) munmap(from, static_cast<std::size_t>(slab - from));
    munmap(slab + kSlab, kSlab - static_cast<std::size_t>(slab - from));
    if (++slabs_ > kSmallSlabs) madvise(slab, kSlab, MADV_HUGEPAGE);
    return reinterpret_cast<Slab*>(slab);
  }

  Slab* open_[kSizes] = {};
  Slab* spare_[kSpare] = {};
  std::size_t spares_ = 0, slabs_ = 0;
};

Pool& pool() {
  alignas(Pool) static std::byte place[sizeof(Pool)];
  static Pool* pool = new (place) Pool;  // contents may live longer than any static object
  return *pool;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kPooled = false;
#else
constexpr bool kPooled = true;
#endif

// `grows`: it did already, and may go on. What has become long is likely to become as long as it may.
std::size_t capacity_for(std::size_t size, bool grows) {
  if (size <= kSmallest) return std::bit_ceil(size < 64 ? std::size_t{64} : size);
  if (size > kLargest) return size;
  if (!grows) return (size + kSmallest - 1) & ~(kSmallest - 1);
  return size > kLargest / 4 ? kLargest : std::bit_ceil(size);
}

bool pooled(std::size_t capacity) { return kPooled && capacity >= kSmallest && capacity <= kLargest; }

std::byte* take(std::size_t capacity) {
  return pooled(capacity) ? pool().take(capacity) : static_cast<std::byte*>(operator new(capacity));
}

void give(std::byte* data, std::size_t capacity) {
  if (pooled(capacity)) pool().give(data, capacity);
  else operator delete(data);
}

}  // namespace

Content::~Content() {
  if (data_) give(data_, capacity_);
}

void Content::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const std::size_t size = size_ + bytes.size();
  const bool grows = size_ > 0;
  if (size > capacity_) {
    const std::size_t capacity = capacity_for(size, grows);
    std::byte* data = take(capacity);
    if (grows) memcpy(data, data_, size_);
    if (data_) give(data_, capacity_);
    data_ = data;
    capacity_ = static_cast<std::uint32_t>(capacity);
  }
  // While it grows it is about to be moved, and better stays in the caches.
  if (grows && capacity_ < kLargest) memcpy(data_ + size_, bytes.data(), bytes.size());
  else write(size_, bytes);
  size_ = static_cast<std::uint32_t>(size);
}

// Past the caches: nobody reads it soon.
void Content::write(std::size_t at, std::span<const std::byte> bytes) {
  std::byte* to = data_ + at;
  const std::byte* from = bytes.data();
  std::size_t n = bytes.size();
  if (n >= kSmallest && reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    for (; n >= 64; n -= 64, from += 64, to += 64) {
      const auto* source = reinterpret_cast<const __m128i*>(from);
      const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
      const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
      auto* line = reinterpret_cast<__m128i*>(to);
      _mm_stream_si128(line, a);
      _mm_stream_si128(line + 1, b);
      _mm_stream_si128(line + 2, c);
      _mm_stream_si128(line + 3, d);
    }
    _mm_sfence();
  }
  memcpy(to, from, n);
}

void Content::cut(std::size_t size) {
  if (size >= size_) return;
  size_ = static_cast<std::uint32_t>(size);
  // What is much smaller now moves into what fits.
  if (capacity_ >= kSmallest && size <= capacity_ / 4) *this = Content({data_, size});
}

std::uint64_t Content::taken() { return pool().taken(); }

}  // namespace supervise
