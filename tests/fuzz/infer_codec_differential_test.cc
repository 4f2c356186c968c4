// Seeded random requests, whole and damaged, through the codec and through protobuf. A failure prints its seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <protozero/pbf_writer.hpp>
#include <random>
#include <string>
#include <vector>

#include "infer_codec_oracle.h"

namespace headrace::wire {
namespace {

using protozero::pbf_writer;

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// A request as any encoder might write it: fields in any order, packed or not, in pieces, with unknown fields between.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  std::string request() {
    Pieces pieces;
    for (const protozero::pbf_tag_type field : {1, 2, 3}) {
      for (std::size_t i = below(3); i > 0; --i) pieces.add([&](pbf_writer& w) { w.add_string(field, text()); });
    }
    parameters(pieces, 4);
    const std::size_t inputs = below(4);
    const bool raw = below(3) == 0;
    for (std::size_t i = 0; i < inputs; ++i) pieces.add([&](pbf_writer& w) { w.add_message(5, input(!raw)); });
    for (std::size_t i = below(3); i > 0; --i) pieces.add([&](pbf_writer& w) { w.add_message(6, output()); });
    for (std::size_t i = 0; raw && i < inputs; ++i) pieces.add([&](pbf_writer& w) { w.add_bytes(7, blob()); });
    if (below(40) == 0) pieces.add([&](pbf_writer& w) { w.add_bytes(7, blob()); });
    return join(pieces);
  }

  void damage(std::string& bytes) {
    for (std::size_t i = 1 + below(3); i > 0 && !bytes.empty(); --i) {
      const std::size_t at = below(bytes.size());
      switch (below(5)) {
        case 0:
          bytes.resize(at);
          break;
        case 1:
          bytes.insert(at, 1, static_cast<char>(below(256)));
          break;
        case 2:
          bytes.erase(at, 1 + below(4));
          break;
        case 3:
          bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ (1U << below(8)));
          break;
        default:
          bytes[at] = static_cast<char>(below(256));
      }
    }
  }

  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(random_() % limit); }

 private:
  struct Pieces {
    std::vector<std::string> list;
    template <class Fill>
    void add(Fill fill) {
      std::string bytes;
      pbf_writer writer(bytes);
      fill(writer);
      list.push_back(std::move(bytes));
    }
  };

  std::string join(Pieces& pieces) {
    if (below(4) == 0) unknown(pieces);
    if (below(2) == 0) std::shuffle(pieces.list.begin(), pieces.list.end(), random_);
    std::string all;
    for (const std::string& piece : pieces.list) all += piece;
    return all;
  }

  // Fields that nobody knows, and known numbers with another wire type.
  void unknown(Pieces& pieces) {
    switch (below(6)) {
      case 0:
        pieces.add([&](pbf_writer& w) { w.add_uint64(static_cast<unsigned>(9 + below(3000)), random_()); });
        break;
      case 1:
        pieces.add([&](pbf_writer& w) { w.add_fixed32(static_cast<unsigned>(1 + below(5)), 7); });
        break;
      case 2:
        pieces.add([&](pbf_writer& w) { w.add_fixed64(static_cast<unsigned>(9 + below(20)), 7); });
        break;
      case 3:
        pieces.add([&](pbf_writer& w) { w.add_bytes(static_cast<unsigned>(20 + below(20)), blob()); });
        break;
      default: {  // groups, 15 {16 {...}}; now and then too deep
        const std::size_t depth = below(20) == 0 ? 95 + below(10) : 1 + below(3);
        std::string group;
        for (std::size_t i = 0; i < depth; ++i) group += "\x7B";
        group += "\x08\x01";
        for (std::size_t i = 0; i < depth; ++i) group += "\x7C";
        pieces.list.push_back(group);
      }
    }
  }

  std::string blob() {
    std::string bytes(below(20), '\0');
    for (char& byte : bytes) byte = static_cast<char>(below(256));
    return bytes;
  }

  std::string text() {
    static const std::vector<std::string> kTexts = {
        "", "x", "input_0", "FP32", "BYTES", "INT64", "gr\xC3\xBC\xC3\x9F", "\xE2\x82\xAC", "\xF0\x9F\x9A\x80 launch"};
    if (below(200) == 0) return blob();  // mostly not UTF-8
    return kTexts[below(kTexts.size())];
  }

  void parameters(Pieces& pieces, protozero::pbf_tag_type field) {
    for (std::size_t i = below(3); i > 0; --i) {
      pieces.add([&](pbf_writer& w) {
        Pieces entry;
        if (below(10) != 0) entry.add([&](pbf_writer& e) { e.add_string(1, text()); });
        for (std::size_t times = below(10) == 0 ? below(3) : 1; times > 0; --times) {
          entry.add([&](pbf_writer& e) { e.add_message(2, choice()); });
        }
        w.add_message(field, join(entry));
      });
    }
  }

  std::string choice() {
    Pieces value;
    for (std::size_t i = below(8) == 0 ? below(3) : 1; i > 0; --i) {
      value.add([&](pbf_writer& w) {
        switch (below(5)) {
          case 0:
            return w.add_bool(1, below(2) == 0);
          case 1:
            return w.add_int64(2, static_cast<std::int64_t>(number()));
          case 2:
            return w.add_string(3, text());
          case 3:
            return w.add_double(4, static_cast<double>(random_()) / 1e9);
          default:
            return w.add_uint64(5, number());
        }
      });
    }
    return join(value);
  }

  // Small, at an edge, or anything.
  std::uint64_t number() {
    switch (below(4)) {
      case 0:
        return below(128);
      case 1:
        return (std::uint64_t{1} << below(64)) - below(2);
      case 2:
        return ~std::uint64_t{0} - below(300);
      default:
        return random_();
    }
  }

  std::string input(bool typed) {
    Pieces pieces;
    pieces.add([&](pbf_writer& w) { w.add_string(1, text()); });
    pieces.add([&](pbf_writer& w) { w.add_string(2, text()); });
    for (std::size_t i = below(3); i > 0; --i) {
      std::vector<std::int64_t> dims(below(5));
      for (std::int64_t& dim : dims) dim = static_cast<std::int64_t>(below(60) == 0 ? number() : below(400));
      if (below(2) == 0) {
        pieces.add([&](pbf_writer& w) { w.add_packed_int64(3, dims.begin(), dims.end()); });
      } else {
        for (const std::int64_t dim : dims) pieces.add([&](pbf_writer& w) { w.add_int64(3, dim); });
      }
    }
    parameters(pieces, 4);
    if (typed && below(4) != 0) pieces.add([&](pbf_writer& w) { w.add_message(5, contents()); });
    return join(pieces);
  }

  std::string contents() {
    Pieces pieces;
    const auto field = static_cast<protozero::pbf_tag_type>(1 + below(8));
    for (std::size_t i = below(4); i > 0; --i) elements(pieces, field);
    if (below(15) == 0) elements(pieces, static_cast<protozero::pbf_tag_type>(1 + below(8)));
    return join(pieces);
  }

  void elements(Pieces& pieces, protozero::pbf_tag_type field) {
    if (field == 8) {
      pieces.add([&](pbf_writer& w) { w.add_bytes(8, blob()); });
    } else if (field == 6) {
      std::vector<float> values(below(6));
      for (float& value : values) value = real();
      const bool packed = below(2) == 0;
      pieces.add([&](pbf_writer& w) {
        if (packed) return w.add_packed_float(6, values.begin(), values.end());
        for (const float value : values) w.add_float(6, value);
      });
    } else if (field == 7) {
      std::vector<double> values(below(6), 1.0 / 3);
      const bool packed = below(2) == 0;
      pieces.add([&](pbf_writer& w) {
        if (packed) return w.add_packed_double(7, values.begin(), values.end());
        for (const double value : values) w.add_double(7, value);
      });
    } else {
      std::vector<std::uint64_t> values(below(6));
      for (std::uint64_t& value : values) value = below(3) == 0 ? number() : below(120);
      const bool packed = below(2) == 0;
      pieces.add([&](pbf_writer& w) {
        if (packed) return w.add_packed_uint64(field, values.begin(), values.end());
        for (const std::uint64_t value : values) w.add_uint64(field, value);
      });
    }
  }

  float real() {
    const auto bits = static_cast<std::uint32_t>(random_());
    float value = 0;
    switch (below(3)) {
      case 0:
        std::memcpy(&value, &bits, sizeof(value));  // any bits: huge, tiny, infinite, not a number
        return value;
      case 1:
        return std::ldexp(static_cast<float>(bits & 0xFFFFU), static_cast<int>(below(60)) - 40);  // near FP16's range
      default:
        return static_cast<float>(below(1000)) / 8;
    }
  }

  std::string output() {
    Pieces pieces;
    pieces.add([&](pbf_writer& w) { w.add_string(1, text()); });
    parameters(pieces, 2);
    return join(pieces);
  }

  std::mt19937_64 random_;
};

TEST(InferCodecDifferential, MakesOfAnyBytesWhatProtobufMakesOfThem) {
  constexpr std::uint64_t kSeeds = 40'000;
  Pool pool{PoolOptions{}};
  OracleCounts counts;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    Generator generator(seed);
    std::string bytes = generator.request();
    if (generator.below(2) == 0) generator.damage(bytes);
    const std::string difference = differs_from_protobuf(as_bytes(bytes), as_bytes(bytes), pool, counts);
    ASSERT_EQ(difference, "") << "seed " << seed;
  }
  // All that is worth comparing was reached.
  EXPECT_GT(counts.accepted, kSeeds / 3);
  EXPECT_GT(counts.refused, kSeeds / 20);
  EXPECT_GT(counts.unmeant, kSeeds / 100);
  EXPECT_GT(counts.conversions, kSeeds / 2);
  EXPECT_GT(counts.conversions_refused, kSeeds);
  EXPECT_EQ(pool.stats().bytes_in_use, 0U);
  EXPECT_EQ(pool.stats().blocks_in_use, 0U);
}

// The comparison can fail: of two requests that differ, it says where.
TEST(InferCodecDifferential, SeesADifference) {
  Pool pool{PoolOptions{}};
  OracleCounts counts;
  std::uint64_t seen = 0;
  std::uint64_t pairs = 0;
  for (std::uint64_t seed = 0; seed < 2'000; ++seed) {
    Generator generator(seed);
    const std::string one = generator.request();
    const std::string two = generator.request();
    if (differs_from_protobuf(as_bytes(one), as_bytes(one), pool, counts) != "") continue;
    const bool same = differs_from_protobuf(as_bytes(one), as_bytes(two), pool, counts).empty();
    seen += same ? 0U : 1U;
    ++pairs;
  }
  EXPECT_GT(seen, pairs * 8 / 10);  // the others are refused both, or both are empty
  EXPECT_EQ(pool.stats().blocks_in_use, 0U);
  EXPECT_EQ(pool.stats().bytes_in_use, 0U);
}

}  // namespace
}  // namespace headrace::wire
