// Lane time shared by weight among the models that compete for it: start-time fair queueing (Goyal, Vin and Cheng,
// "Start-Time Fair Queueing", SIGCOMM 1996), on several lanes as in SFQ(D) (Jin, Chase and Kaur, SIGMETRICS 2004).
// Pure; the dispatcher asks.
//
// Each model has a tag: the virtual time at which its next batch starts. The least goes next, and its batch moves it on
// by the lane time that it is predicted to take, over the model's weight; what the run really took is put right when
// it ends. Virtual time is the tag of the last batch that was taken. Who comes back from idleness starts there at the
// earliest, so idle time gives no credit. Between two models that both have work all the time, what each got over its
// weight never differs by more than one batch of each and lane.
#pragma once

#include <algorithm>

#include "base/clock.h"

namespace headrace {

inline constexpr double kLeastWeight = 0.01;
inline constexpr double kMostWeight = 100;

class FairShare {
 public:
  struct Account {
    double weight = 1;
    Nanos tag = 0;          // of the next batch
    Nanos last = 0;         // what the last run took
    bool has_work = false;  // since it was last idle
  };

  // Who may not run though he has work (no lane or resource for him) keeps his place; but for so much of virtual time
  // at most, or he would have all lanes to himself afterwards.
  static constexpr Nanos kMostBehind = kSecond / 10;

  // The model has work, and may run.
  void ready(Account& account) const {
    const Nanos least = account.has_work ? now_ - kMostBehind : now_;
    account.tag = std::max(account.tag, least);
    account.has_work = true;
  }
  static void idle(Account& account) { account.has_work = false; }
  // A batch is taken that should take so long; 0: nobody knows. Returns what it is charged for.
  Nanos take(Account& account, Nanos predicted) {
    now_ = std::max(now_, account.tag);
    const Nanos charge = predicted > 0 ? predicted : account.last;
    account.tag += over_weight(account, charge);
    return charge;
  }
  static void ended(Account& account, Nanos charged, Nanos took) {
    account.tag += over_weight(account, took - charged);
    account.last = took;
  }
  Nanos now() const { return now_; }

 private:
  static Nanos over_weight(const Account& account, Nanos time) {
    return static_cast<Nanos>(static_cast<double>(time) / account.weight);
  }

  Nanos now_ = 0;  // virtual
};

}  // namespace headrace
