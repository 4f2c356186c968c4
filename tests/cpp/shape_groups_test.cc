#include "batching/shape_groups.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace headrace {
namespace {

Ticket* with_shape(Ticket& ticket, DType dtype, Shape shape) {
  ticket.inputs.clear();
  ticket.inputs.emplace_back();
  ticket.inputs[0].dtype = dtype;
  ticket.inputs[0].shape = std::move(shape);
  return &ticket;
}

ShapeGroup* joined(ShapeGroups& groups, Ticket* ticket) {
  ShapeGroup* group = groups.find(*ticket);
  Slot slot;
  slot.ticket = ticket;
  group->line.insert(slot);
  return group;
}

void left(ShapeGroups& groups, ShapeGroup* group) {
  group->line.clear();
  groups.retire(group);
}

TEST(ShapeGroups, OneGroupForWhatAgreesInAllButTheFirstDimension) {
  ShapeGroups groups;
  Ticket a, b;
  ShapeGroup* group = joined(groups, with_shape(a, DType::kFp32, {1, 3, 5}));
  EXPECT_EQ(groups.find(*with_shape(b, DType::kFp32, {7, 3, 5})), group);
  EXPECT_EQ(groups.size(), 1U);
}

TEST(ShapeGroups, AnyDifferenceIsAnotherGroup) {
  ShapeGroups groups;
  const std::vector<std::pair<DType, Shape>> kinds = {
      {DType::kFp32, {1, 3, 5}}, {DType::kFp32, {1, 5, 3}},    {DType::kFp32, {1, 3}}, {DType::kFp32, {1}},
      {DType::kInt32, {1}},      {DType::kFp32, {1, 3, 5, 1}}, {DType::kFp32, {}},     {DType::kFp32, {1, 0}},
  };
  std::vector<Ticket> tickets(kinds.size());
  std::vector<ShapeGroup*> found;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    found.push_back(joined(groups, with_shape(tickets[i], kinds[i].first, kinds[i].second)));
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(found[i], found[j]) << i << " and " << j;
  }
  for (std::size_t i = 0; i < kinds.size(); ++i) EXPECT_EQ(groups.find(tickets[i]), found[i]);
}

TEST(ShapeGroups, DimensionsOfTwoInputsAreNotOneRowOfNumbers) {
  ShapeGroups groups;
  Ticket a, b;
  with_shape(a, DType::kInt8, {1, 2});
  a.inputs.push_back(Tensor(a.inputs[0]));
  a.inputs[1].shape = Shape{1, 2, 3};
  with_shape(b, DType::kInt8, {1, 2, 2});
  b.inputs.push_back(Tensor(b.inputs[0]));
  b.inputs[1].shape = Shape{1, 3};
  EXPECT_NE(joined(groups, &a), groups.find(b));
}

TEST(ShapeGroups, AKnownShapeIsFoundAgainAfterItsGroupWasEmpty) {
  ShapeGroups groups;
  Ticket a, b;
  ShapeGroup* first = joined(groups, with_shape(a, DType::kFp32, {1, 3}));
  ShapeGroup* second = joined(groups, with_shape(b, DType::kFp32, {1, 4}));
  left(groups, first);
  left(groups, second);
  EXPECT_EQ(groups.find(a), first);
  EXPECT_EQ(groups.size(), 2U);
}

TEST(ShapeGroups, OfTheEmptyOnesTheLongestEmptyGoes) {
  ShapeGroups groups;
  std::vector<Ticket> tickets(ShapeGroups::kMaxIdle + 1);
  std::vector<ShapeGroup*> found;
  for (std::size_t i = 0; i < tickets.size(); ++i) {
    found.push_back(joined(groups, with_shape(tickets[i], DType::kFp32, {1, static_cast<std::int64_t>(i)})));
  }
  EXPECT_EQ(groups.size(), ShapeGroups::kMaxIdle + 1) << "groups with tickets are all kept";
  for (ShapeGroup* group : found) left(groups, group);
  EXPECT_EQ(groups.size(), ShapeGroups::kMaxIdle);
  for (std::size_t i = 1; i < tickets.size(); ++i) EXPECT_EQ(groups.find(tickets[i]), found[i]) << i;
}

TEST(ShapeGroups, LengthsOfAClassShareAGroupWhereTheyMayBePadded) {
  ShapeGroups groups;
  groups.set_padding({{1, 2}, {0}});
  const auto ticket = [](std::int64_t first, std::int64_t second, std::int64_t other = 3) {
    auto made = std::make_unique<Ticket>();
    with_shape(*made, DType::kInt64, {1, first});
    made->inputs.emplace_back();
    made->inputs[1].dtype = DType::kFp32;
    made->inputs[1].shape = Shape{1, other, second};
    return made;
  };
  const auto nine = ticket(9, 9);
  ShapeGroup* group = joined(groups, nine.get());
  EXPECT_EQ(groups.find(*ticket(10, 10)), group);
  EXPECT_NE(groups.find(*ticket(8, 8)), group) << "another class";
  EXPECT_NE(groups.find(*ticket(9, 9, 4)), group) << "another dimension that is no length";
  const auto unlike = ticket(9, 10);
  ShapeGroup* exact = joined(groups, unlike.get());
  EXPECT_NE(exact, group) << "its own inputs do not agree";
  EXPECT_NE(groups.find(*ticket(10, 9)), exact) << "and then only equals share";
  EXPECT_EQ(groups.find(*ticket(9, 10)), exact);
  const Padding padding{{1, 2}, {0}};
  EXPECT_EQ(shape_hash(ticket(9, 9)->inputs, padding), shape_hash(ticket(10, 10)->inputs, padding));
  EXPECT_NE(shape_hash(ticket(9, 9)->inputs), shape_hash(ticket(10, 10)->inputs));
}

TEST(ShapeGroups, GrowthKeepsEveryGroupFindable) {
  ShapeGroups groups;
  std::vector<Ticket> tickets(1'000);
  std::vector<ShapeGroup*> found;
  for (std::size_t i = 0; i < tickets.size(); ++i) {
    found.push_back(joined(groups, with_shape(tickets[i], DType::kFp32, {1, static_cast<std::int64_t>(i)})));
  }
  for (std::size_t i = 0; i < tickets.size(); ++i) ASSERT_EQ(groups.find(tickets[i]), found[i]) << i;
}

}  // namespace
}  // namespace headrace
