#include "engine/padding_probe.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "batching/assembly.h"
#include "engine/made_up.h"

namespace headrace {

namespace {

// Lengths that are tried, the longest first; scaled until the model runs with them.
constexpr std::array<std::int64_t, 4> kLengths{9, 5, 7, 9};
constexpr std::array<std::int64_t, 3> kScales{1, 4, 16};
constexpr int kRounds = 2;

struct Tolerance {
  double relative;
  double absolute;
};

double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const double fraction = bits & 0x3ff;
  double value = 0;
  if (exponent == 0x1f) {
    value = fraction == 0 ? HUGE_VAL : NAN;
  } else {
    value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

double value_at(const Tensor& tensor, std::size_t i) {
  const auto read = [&](auto value) {
    std::memcpy(&value, tensor.data + i * sizeof(value), sizeof(value));
    return value;
  };
  if (tensor.dtype == DType::kFp64) return read(double{});
  if (tensor.dtype == DType::kFp32) return static_cast<double>(read(float{}));
  if (tensor.dtype == DType::kFp16) return half_value(read(std::uint16_t{}));
  const std::uint32_t bits = static_cast<std::uint32_t>(read(std::uint16_t{})) << 16;  // BF16
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return static_cast<double>(value);
}

std::optional<Tolerance> tolerance(DType dtype) {
  if (dtype == DType::kFp32 || dtype == DType::kFp64) return Tolerance{1e-3, 1e-5};
  if (dtype == DType::kFp16 || dtype == DType::kBf16) return Tolerance{1e-2, 1e-3};
  return std::nullopt;
}

bool same_values(const Tensor& alone, const Tensor& padded) {
  if (alone.size != padded.size) return false;
  const std::optional<Tolerance> allowed = tolerance(alone.dtype);
  if (!allowed) return alone.size == 0 || std::memcmp(alone.data, padded.data, alone.size) == 0;
  for (std::size_t i = 0; i < alone.size / element_size(alone.dtype); ++i) {
    const double a = value_at(alone, i);
    const double b = value_at(padded, i);
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    if (!(std::abs(a - b) <= allowed->absolute + allowed->relative * std::abs(a))) return false;
  }
  return true;
}

bool is_mask(const TensorSpec& spec) {
  std::string name = spec.name;
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.find("mask") != std::string::npos;
}

// What a mask says of a value that is one.
void append_one(std::string& bytes, DType dtype) {
  const auto put = [&bytes](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  if (dtype == DType::kFp32) return put(1.0F);
  if (dtype == DType::kFp64) return put(1.0);
  if (dtype == DType::kFp16) return put(std::uint16_t{0x3c00});
  if (dtype == DType::kBf16) return put(std::uint16_t{0x3f80});
  bytes += '\1';  // little-endian
  bytes.append(element_size(dtype) - 1, '\0');
}

using Tickets = std::vector<std::unique_ptr<Ticket>>;

class Prober {
 public:
  Prober(Session& session, Pool& pool, std::uint64_t seed)
      : session_(session), signature_(session.signature()), pool_(pool), values_(seed) {
    for (const TensorSpec& output : signature_.outputs) names_.push_back(output.name);
  }

  PaddingProbe probe(const std::vector<bool>& allowed) {
    PaddingProbe found;
    found.reason = candidate(allowed);
    if (!found.reason.empty() || padding_.inputs.empty()) return found;
    std::string why;
    for (const std::int64_t scale : kScales) {
      runs_ = false;
      why = try_lengths(scale);
      if (runs_) break;
    }
    if (why.empty()) {
      found.padding = padding_;
      found.reason = "requests of unlike lengths share runs, padded with zeros: a probe found the same answers";
    } else {
      found.reason = "requests of unlike lengths do not share runs: " + why;
    }
    return found;
  }

 private:
  // Sets padding_.inputs. A reason only where the model, or its configuration, asks for padding that cannot be.
  std::string candidate(const std::vector<bool>& allowed) {
    std::vector<int> dims(signature_.inputs.size(), 0);
    bool any = false;
    bool mask = false;
    const TensorSpec* forbidden = nullptr;
    std::string why;
    for (std::size_t i = 0; i < dims.size(); ++i) {
      const TensorSpec& spec = signature_.inputs[i];
      for (std::size_t d = 1; d < spec.dims.size(); ++d) {
        if (spec.dims[d] >= 0) continue;
        if (dims[i] != 0) why = "input '" + spec.name + "' has more than one free dimension";
        dims[i] = static_cast<int>(d);
      }
      if (spec.any_rank) why = "input '" + spec.name + "' states no shape";
      if (dims[i] == 0) continue;
      if (spec.dtype == DType::kBytes) why = "input '" + spec.name + "' is of BYTES";
      any = true;
      mask |= is_mask(spec);
      if (!allowed[i] && forbidden == nullptr) forbidden = &spec;
    }
    const bool asked = std::ranges::find(allowed, true) != allowed.end();
    if (!mask && !asked) return {};
    if (!any) return asked ? "allow_ragged_batch has no effect: no input has a free inner dimension" : std::string();
    if (!why.empty()) return "requests of unlike lengths do not share runs: " + why;
    if (!mask && forbidden != nullptr) {
      return "requests of unlike lengths do not share runs: config.pbtxt sets allow_ragged_batch for some inputs, but "
             "not for '" +
             forbidden->name + "', and there is no mask";
    }
    padding_.inputs = std::move(dims);
    return {};
  }

  std::unique_ptr<Ticket> make_ticket(std::int64_t length) {
    auto ticket = std::make_unique<Ticket>();
    for (std::size_t i = 0; i < signature_.inputs.size(); ++i) {
      const TensorSpec& spec = signature_.inputs[i];
      Tensor& tensor = ticket->inputs.emplace_back();
      if (spec.optional) continue;
      std::vector<std::int64_t> dims = spec.dims;
      dims[0] = 1;
      if (padding_.inputs[i] != 0) dims[static_cast<std::size_t>(padding_.inputs[i])] = length;
      const std::size_t elements = element_count(dims).value_or(0);
      std::string bytes;
      for (std::size_t e = 0; e < elements; ++e) {
        if (is_mask(spec)) {
          append_one(bytes, spec.dtype);
        } else {
          values_.append(bytes, spec.dtype);
        }
      }
      Result<Block> block = pool_.allocate(bytes.size());
      if (!block) return nullptr;
      if (!bytes.empty()) std::memcpy(block->data(), bytes.data(), bytes.size());
      tensor.dtype = spec.dtype;
      tensor.shape.assign(dims);
      tensor.block = std::move(*block);
      tensor.data = tensor.block.data();
      tensor.size = bytes.size();
    }
    ticket->wanted.assign(signature_.outputs.size(), 1);
    return ticket;
  }

  // All of the tickets in one run; `length`: what it is padded to, 0: it is not.
  Status run(std::span<Ticket* const> tickets, std::int64_t length) {
    std::vector<Tensor> inputs;
    Status status =
        length == 0 ? gather(tickets, pool_, inputs) : gather_padded(tickets, padding_, length, pool_, inputs);
    if (!status.ok()) return status;
    const std::vector<std::uint8_t> wanted(signature_.outputs.size(), 1);
    BatchRun batch;
    batch.inputs = inputs;
    batch.wanted = wanted;
    batch.pool = &pool_;
    status = session_.run(batch);
    const auto rows = static_cast<std::int64_t>(tickets.size());
    if (status.ok()) status = check_outputs(tickets, rows, true, batch.outputs, names_);
    if (status.ok() && length != 0) status = check_lengths(batch.outputs, padding_, length, names_);
    if (!status.ok()) return status;
    scatter(tickets, tickets, rows, true, batch.outputs);
    for (Ticket* ticket : tickets) {
      if (length != 0) status = cut_outputs(*ticket, padding_, length, pool_);
      if (!status.ok()) return status;
    }
    return {};
  }

  // Sets padding_.outputs by what two runs of unlike lengths have given.
  std::string find_outputs(const Ticket& longer, std::int64_t long_length, const Ticket& shorter,
                           std::int64_t short_length) {
    padding_.outputs.assign(signature_.outputs.size(), 0);
    for (std::size_t i = 0; i < padding_.outputs.size(); ++i) {
      const Shape& large = longer.outputs[i].shape;
      const Shape& small = shorter.outputs[i].shape;
      const std::string where = "output '" + names_[i] + "' has shape ";
      if (large.rank() != small.rank()) return where + "of a rank that depends on the length";
      for (std::size_t d = 1; d < large.rank(); ++d) {
        if (large[d] == small[d]) continue;
        if (large[d] != long_length || small[d] != short_length || padding_.outputs[i] != 0) {
          return where + large.to_string() + " for length " + std::to_string(long_length) + " and " +
                 small.to_string() + " for " + std::to_string(short_length);
        }
        padding_.outputs[i] = static_cast<int>(d);
      }
    }
    return {};
  }

  // Why not; "": it may be. runs_: the model ran with such lengths at all.
  std::string try_lengths(std::int64_t scale) {
    for (int round = 0; round < kRounds; ++round) {
      Tickets tickets;
      std::vector<Ticket*> all;
      for (const std::int64_t length : kLengths) {
        tickets.push_back(make_ticket(length * scale));
        if (tickets.back() == nullptr) return "the pool has no memory for a probe";
        all.push_back(tickets.back().get());
      }
      std::vector<std::vector<Tensor>> alone;
      for (std::size_t t = 0; t < all.size(); ++t) {
        if (Status status = run(std::span(all).subspan(t, 1), 0); !status.ok()) {
          return "a probe with made-up values cannot run (" + status.message() + ")";
        }
        alone.push_back(all[t]->outputs);
      }
      runs_ = true;
      if (std::string why = find_outputs(*all[0], kLengths[0] * scale, *all[1], kLengths[1] * scale); !why.empty()) {
        return why;
      }
      if (Status status = run(all, padded_length(all, padding_)); !status.ok()) {
        return "a probe of four lengths together cannot run (" + status.message() + ")";
      }
      for (std::size_t t = 0; t < all.size(); ++t) {
        for (std::size_t i = 0; i < alone[t].size(); ++i) {
          if (std::ranges::equal(alone[t][i].shape.dims(), all[t]->outputs[i].shape.dims()) &&
              same_values(alone[t][i], all[t]->outputs[i])) {
            continue;
          }
          return "padding changes the answer '" + names_[i] + "'";
        }
      }
    }
    return {};
  }

  Session& session_;
  const Signature& signature_;
  Pool& pool_;
  MadeUp values_;
  std::vector<std::string> names_;
  Padding padding_;
  bool runs_ = false;
};

}  // namespace

PaddingProbe probe_padding(Session& session, Pool& pool, const std::vector<bool>& allowed, std::uint64_t seed) {
  return Prober(session, pool, seed).probe(allowed);
}

}  // namespace headrace
