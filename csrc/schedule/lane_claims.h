// How much of the lanes each model may promise away, while more is asked of them than they can do. A model whose
// requests can wait for long could else be promised all that the lanes will do for as long, and whoever comes after
// that with a nearer target would have to be refused.
//
// Weighted max-min fairness (Bertsekas and Gallager, "Data Networks", 2nd edition 1992, section 6.5.2): who asks for
// less than a fair share has what it asks for, the others share what is left by weight. What a model asks for is
// lanes that its arrivals would keep busy. Pure.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

namespace headrace {

class LaneClaims {
 public:
  static constexpr double kRoom = 1.05;  // times what came lately: it varies

  void clear() { claims_.clear(); }
  // need: lanes that its arrivals would keep busy; most: that it may have at a time.
  void add(double need, double most, double weight) { claims_.push_back({need * kRoom, most, weight}); }

  // Who may have how much of so many lanes?
  void divide(double lanes) {
    lanes_ = lanes;
    level_ = std::numeric_limits<double>::infinity();
    granted_ = 0;
    order_.resize(claims_.size());
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = i;
    // Those that ask for least over their weight are given it first.
    std::sort(order_.begin(), order_.end(), [this](std::size_t a, std::size_t b) {
      return claims_[a].can_use() * claims_[b].weight < claims_[b].can_use() * claims_[a].weight;
    });
    double left = lanes;
    double weights = 0;
    for (const Claim& claim : claims_) weights += claim.weight;
    for (const std::size_t i : order_) {
      const Claim& claim = claims_[i];
      if (claim.can_use() * weights > left * claim.weight) {
        level_ = left / weights;
        break;
      }
      left -= claim.can_use();
      weights -= claim.weight;
    }
    for (const Claim& claim : claims_) granted_ += granted(claim);
  }
  // It asks for more than its share, or than it may have.
  bool asks_too_much(std::size_t index) const { return claims_[index].need > granted(claims_[index]); }
  // What the others have, and what they leave to it.
  double others(std::size_t index) const { return granted_ - granted(claims_[index]); }
  double left_to(std::size_t index) const { return std::min(claims_[index].most, lanes_ - others(index)); }

 private:
  struct Claim {
    double need;
    double most;
    double weight;
    double can_use() const { return std::min(need, most); }
  };
  double granted(const Claim& claim) const { return std::min(claim.can_use(), level_ * claim.weight); }

  std::vector<Claim> claims_;
  std::vector<std::size_t> order_;
  double lanes_ = 0;
  double level_ = 0;  // lanes for each unit of weight; infinity: there is enough for all
  double granted_ = 0;
};

}  // namespace headrace
