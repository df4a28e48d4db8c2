// A sorted map from offsets, as far as ByteRanges needs one: entries lie in blocks, keys apart from values, so
// that finding a place among tens of thousands misses the cache two or three times, where a tree of nodes
// would a dozen times. Iterators are valid until the map is changed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace supervise {

template <class T>
class OffsetMap {
 public:
  template <class V>
  struct Entry {  // what an iterator shows
    std::uint64_t first;
    V& second;
  };

  template <class Map, class V>
  class Iterator {
   public:
    using value_type = Entry<V>;
    using difference_type = std::ptrdiff_t;
    using reference = Entry<V>;
    using iterator_category = std::bidirectional_iterator_tag;
    struct Arrow {
      Entry<V> entry;
      const Entry<V>* operator->() const { return &entry; }
    };
    using pointer = Arrow;
    Iterator() = default;
    Iterator(Map* map, std::size_t block, std::size_t slot) : map_(map), block_(block), slot_(slot) {}
    Entry<V> operator*() const {
      auto& block = *map_->blocks_[block_];
      return {block.keys[slot_], block.values[slot_]};
    }
    Arrow operator->() const { return {**this}; }
    Iterator& operator++() {
      if (++slot_ == map_->blocks_[block_]->size) {
        ++block_;
        slot_ = 0;
      }
      return *this;
    }
    Iterator& operator--() {
      if (slot_ == 0) slot_ = map_->blocks_[--block_]->size;
      --slot_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator was = *this;
      ++*this;
      return was;
    }
    Iterator operator--(int) {
      Iterator was = *this;
      --*this;
      return was;
    }
    bool operator==(const Iterator& o) const { return block_ == o.block_ && slot_ == o.slot_; }

   private:
    friend OffsetMap;
    Map* map_ = nullptr;
    std::size_t block_ = 0, slot_ = 0;
  };
  using iterator = Iterator<OffsetMap, T>;
  using const_iterator = Iterator<const OffsetMap, const T>;

  OffsetMap() = default;
  OffsetMap(OffsetMap&&) noexcept = default;
  OffsetMap& operator=(OffsetMap&&) noexcept = default;
  OffsetMap(const OffsetMap& o) : firsts_(o.firsts_), size_(o.size_) {
    for (const auto& block : o.blocks_) blocks_.push_back(std::make_unique<Block>(*block));
  }
  OffsetMap& operator=(const OffsetMap& o) {
    if (this != &o) *this = OffsetMap(o);
    return *this;
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  iterator begin() { return {this, 0, 0}; }
  iterator end() { return {this, blocks_.size(), 0}; }
  const_iterator begin() const { return {this, 0, 0}; }
  const_iterator end() const { return {this, blocks_.size(), 0}; }

  iterator lower_bound(std::uint64_t key) {  // the first entry at or behind `key`
    const auto [block, slot] = place(key);
    return {this, block, slot};
  }
  const T& at(std::uint64_t key) const {
    const auto [block, slot] = place(key);
    if (block == blocks_.size() || blocks_[block]->keys[slot] != key) throw std::out_of_range("no such offset");
    return blocks_[block]->values[slot];
  }

  // `before` is lower_bound(key), and has another key.
  iterator insert(iterator before, std::uint64_t key, T value) {
    std::size_t b = before.block_, slot = before.slot_;
    if (slot == 0 && b > 0) slot = blocks_[--b]->size;  // rather behind the last of the block before
    if (blocks_.empty()) {
      add_block(0, key);
      b = 0;
    } else if (blocks_[b]->size == kBlock) {
      if (slot == kBlock) {  // entries that come in order fill their blocks
        add_block(++b, key);
        slot = 0;
      } else {
        split(b);
        if (slot > kBlock / 2) {
          ++b;
          slot -= kBlock / 2;
        }
      }
    }
    Block& block = *blocks_[b];
    std::move_backward(block.keys + slot, block.keys + block.size, block.keys + block.size + 1);
    std::move_backward(block.values + slot, block.values + block.size, block.values + block.size + 1);
    block.keys[slot] = key;
    block.values[slot] = std::move(value);
    ++block.size;
    ++size_;
    firsts_[b] = block.keys[0];
    return {this, b, slot};
  }

  iterator erase(iterator it) {  // the next one
    Block& block = *blocks_[it.block_];
    std::move(block.keys + it.slot_ + 1, block.keys + block.size, block.keys + it.slot_);
    std::move(block.values + it.slot_ + 1, block.values + block.size, block.values + it.slot_);
    block.clear(block.size - 1);
    --size_;
    if (block.size == 0) {
      blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(it.block_));
      firsts_.erase(firsts_.begin() + static_cast<std::ptrdiff_t>(it.block_));
      return it;
    }
    firsts_[it.block_] = block.keys[0];
    if (it.slot_ == block.size) return {this, it.block_ + 1, 0};
    return it;
  }

  // Another key for an entry, with the same neighbours.
  void rekey(iterator it, std::uint64_t key) {
    blocks_[it.block_]->keys[it.slot_] = key;
    if (it.slot_ == 0) firsts_[it.block_] = key;
  }

  template <class Wanted>
  void erase_if(Wanted wanted) {
    std::size_t to = 0;
    size_ = 0;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      Block& block = *blocks_[b];
      std::size_t kept = 0;
      for (std::size_t i = 0; i < block.size; ++i) {
        if (wanted(block.values[i])) continue;
        if (kept != i) {
          block.keys[kept] = block.keys[i];
          block.values[kept] = std::move(block.values[i]);
        }
        ++kept;
      }
      block.clear(kept);
      size_ += kept;
      if (kept == 0) continue;
      firsts_[to] = block.keys[0];
      if (to != b) blocks_[to] = std::move(blocks_[b]);
      ++to;
    }
    blocks_.resize(to);
    firsts_.resize(to);
  }

 private:
  static constexpr std::size_t kBlock = 32;
  static constexpr std::uint64_t kNone = UINT64_MAX;  // no entry has it: nothing is found behind the last
  struct Block {
    Block() { std::fill_n(keys, kBlock, kNone); }
    void clear(std::size_t from) {
      for (std::size_t i = from; i < size; ++i) {
        keys[i] = kNone;
        values[i] = {};
      }
      size = from;
    }
    std::uint64_t keys[kBlock];
    std::size_t size = 0;
    T values[kBlock] = {};
  };

  std::pair<std::size_t, std::size_t> place(std::uint64_t key) const {
    if (blocks_.empty()) return {0, 0};
    // Without branches, which nobody could predict. The block is the last that begins at or before the key.
    const std::uint64_t* first = firsts_.data();
    for (std::size_t n = blocks_.size(); n > 1;) {
      const std::size_t half = n / 2;
      first += first[half] <= key ? half : 0;
      n -= half;
    }
    const auto b = static_cast<std::size_t>(first - firsts_.data());
    const Block& block = *blocks_[b];
    std::size_t slot = 0;
    for (std::size_t i = 0; i < kBlock; ++i) slot += block.keys[i] < key;
    if (slot >= block.size) return {b + 1, 0};
    return {b, slot};
  }

  void add_block(std::size_t b, std::uint64_t first) {
    blocks_.insert(blocks_.begin() + static_cast<std::ptrdiff_t>(b), std::make_unique<Block>());
    firsts_.insert(firsts_.begin() + static_cast<std::ptrdiff_t>(b), first);
  }

  void split(std::size_t b) {
    constexpr std::size_t half = kBlock / 2;
    Block& from = *blocks_[b];
    add_block(b + 1, from.keys[half]);
    Block& to = *blocks_[b + 1];
    std::move(from.keys + half, from.keys + kBlock, to.keys);
    std::move(from.values + half, from.values + kBlock, to.values);
    to.size = kBlock - half;
    from.clear(half);
  }

  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::uint64_t> firsts_;  // of the blocks
  std::size_t size_ = 0;
};

}  // namespace supervise
