// The permutation "v1" of 0..size-1: a Feistel network of the next power of two with cycle walking.
#pragma once

#include "byte_network.h"
#include "feistel.h"

namespace gaussreg::GAUSSREG_ISA {

// Keeps the first `count` pairs (value[k], where[k]) whose value is not below `size`, in order, and
// returns their number. Both arrays have room for a whole number of vectors.
static int keep_outside(std::int64_t size, int count, std::uint32_t* value, std::uint32_t* where) {
  const vi limit = vi{} + static_cast<std::int32_t>(size), end = vi{} + count;
  int kept = 0;
  for (int k = 0; k < count; k += W) {
    const vu v = load<vu>(value + k), w = load<vu>(where + k);
    const vi number = (vi)counting() + k;
    const vi outside = (vi)((vi)v >= limit) & (vi)(number < end);
    compress(value + kept, v, outside);
    kept += compress(where + kept, w, outside);
  }
  return kept;
}

// Cycle walking: the network permutes 0..2^bits-1; images outside 0..size-1 pass it again.
template <bool inverse, class Network, class T>
static void walk(const Network& network, std::int64_t size, int count, std::uint32_t* value, T* part) {
  alignas(64) std::uint32_t where[Network::kPart];
  for (int k = 0; k < count; k += W) store(where + k, counting() + static_cast<std::uint32_t>(k));
  for (int k = 0; k < count; ++k) part[k] = static_cast<T>(value[k]);
  for (int left = keep_outside(size, count, value, where); left;
       left = keep_outside(size, left, value, where)) {
    int padded = left;
    for (; padded % Network::kStep; ++padded) value[padded] = 0;
    network.template again<inverse>(padded, value);
    for (int k = 0; k < left; ++k) part[where[k]] = static_cast<T>(value[k]);
  }
}

// Writes elements begin..end-1 of a permutation, or of its inverse, to out[0..]. `begin` is a
// multiple of 64.
template <bool inverse, class Network, class T>
static void permute(const Network& network, const Feistel& feistel, std::int64_t size,
                    std::int64_t begin, std::int64_t end, T* out) {
  constexpr int kStep = Network::kStep, kPart = Network::kPart;
  const bool all_inside = size == std::int64_t{1} << (feistel.low_bits + feistel.high_bits);
  alignas(64) std::uint32_t local[kPart];
  for (std::int64_t start = begin; start < end; start += kPart) {
    const int count = static_cast<int>(end - start < kPart ? end - start : kPart);
    const int padded = (count + kStep - 1) / kStep * kStep;
    T* part = out + (start - begin);
    // Written directly to the output if the part is full and needs no cycle walking.
    const bool straight = sizeof(T) == 4 && all_inside && count == padded;
    std::uint32_t* value = straight ? reinterpret_cast<std::uint32_t*>(part) : local;
    network.template first<inverse>(static_cast<std::uint32_t>(start), padded, value);
    if (straight) continue;
    if (all_inside)
      for (int k = 0; k < count; ++k) part[k] = static_cast<T>(value[k]);
    else
      walk<inverse>(network, size, count, value, part);
  }
}

// Calls body with a function (begin, end, out) that does so for the permutation of a seed.
template <bool inverse, class Body>
GAUSSREG_INLINE void with_permutation(std::uint64_t seed, std::uint64_t sample, std::int64_t size,
                                      Body&& body) {
  const Feistel feistel(seed, sample, size);
#ifdef GAUSSREG_BYTE_NETWORK
  if (ByteNetwork::can_run(feistel)) {
    const ByteNetwork network(feistel);
    return body([&](std::int64_t begin, std::int64_t end, auto* out) {
      permute<inverse>(network, feistel, size, begin, end, out);
    });
  }
#endif
  const WordNetwork network(feistel);
  body([&](std::int64_t begin, std::int64_t end, auto* out) {
    permute<inverse>(network, feistel, size, begin, end, out);
  });
}

// Writes perm[j], or its inverse, for j = begin..end-1 to out[0..]. Requires 1 <= size <= 2^31.
template <class T>
static void permutation(std::uint64_t seed, std::uint64_t sample, std::int64_t size, bool inverse,
                        std::int64_t begin, std::int64_t end, T* out) {
  const auto write = [&](auto fill) { fill(begin, end, out); };
  if (inverse)
    with_permutation<true>(seed, sample, size, write);
  else
    with_permutation<false>(seed, sample, size, write);
}

static bool quick_permutation([[maybe_unused]] std::int64_t size) {
#ifdef GAUSSREG_BYTE_NETWORK
  return ByteNetwork::can_run(Feistel(0, 0, size));
#else
  return false;
#endif
}

}  // namespace gaussreg::GAUSSREG_ISA
