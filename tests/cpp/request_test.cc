#include "batching/request.h"

#include <gtest/gtest.h>

namespace headrace {
namespace {

TEST(Ticket, ClearedIsAsNewAndKeepsItsMemory) {
  Pool pool(PoolOptions{});
  InflightBudget budget(std::size_t{64} << 20, std::size_t{1} << 20);
  Ticket ticket;
  Ticket other;
  auto block = pool.allocate(16);
  ASSERT_TRUE(block);
  Tensor tensor;
  tensor.dtype = DType::kInt32;
  tensor.shape = Shape{1, 4};
  tensor.block = std::move(*block);
  tensor.data = tensor.block.data();
  tensor.size = 16;

  ticket.next = &other;
  ticket.kind = CompletionKind::kPart;
  ticket.cookie_slot = 1;
  ticket.cookie_call = 2;
  ticket.cookie_held = 4;
  ticket.cookie_model = &pool;
  ticket.cookie_hold = &pool;
  ticket.cookie_message = &pool;
  ticket.cookie_bytes = 3;
  ticket.charge = budget.take(1000);
  ASSERT_EQ(budget.charged(), 1000U);
  ticket.inputs.push_back(tensor);
  ticket.outputs.push_back(std::move(tensor));
  ticket.wanted = {1, 0};
  ticket.rows = 4;
  ticket.deadline = 5;
  ticket.timeout = 5;
  ticket.in_sequence = true;
  ticket.priority = 6;
  ticket.id = std::string(100, 'x');
  ticket.timing = true;
  ticket.status = internal_error("broken");
  ticket.time.finished = 7;
  ticket.batch_rows = 8;
  ticket.state = TicketState::kDone;
  ticket.lane = 12;
  ticket.model = &pool;
  ticket.delay_place = 3;
  ticket.order_when = 4;
  ticket.order_level = 5;
  ticket.target = 6;
  ticket.queue_next = &other;
  ticket.sequence = 9;
  ticket.queued_bytes = 10;
  ticket.heap_index = 11;
  ticket.references = 0;
  const auto inputs_capacity = ticket.inputs.capacity();
  const auto id_capacity = ticket.id.capacity();

  ticket.clear();

  EXPECT_EQ(ticket.next, nullptr);
  EXPECT_EQ(ticket.kind, CompletionKind::kFinal);
  EXPECT_EQ(ticket.sink, nullptr);
  EXPECT_EQ(ticket.cookie_message, nullptr);
  EXPECT_EQ(ticket.timeout, kNever);
  EXPECT_FALSE(ticket.in_sequence);
  EXPECT_EQ(ticket.cookie_slot, 0U);
  EXPECT_EQ(ticket.cookie_call, 0U);
  EXPECT_EQ(ticket.cookie_model, nullptr);
  EXPECT_EQ(ticket.cookie_hold, nullptr);
  EXPECT_EQ(ticket.cookie_bytes, 0U);
  EXPECT_FALSE(ticket.charge);
  EXPECT_EQ(budget.charged(), 0U) << "a ticket kept for another use holds nobody's bytes";
  EXPECT_EQ(ticket.cookie_held, -1);
  EXPECT_TRUE(ticket.inputs.empty());
  for (const Tensor& output : ticket.outputs) EXPECT_TRUE(!output && !output.block && output.size == 0);
  EXPECT_TRUE(ticket.wanted.empty());
  EXPECT_EQ(ticket.rows, 1);
  EXPECT_EQ(ticket.deadline, kNever);
  EXPECT_EQ(ticket.priority, 0U);
  EXPECT_TRUE(ticket.id.empty());
  EXPECT_FALSE(ticket.timing);
  EXPECT_TRUE(ticket.status.ok());
  EXPECT_EQ(ticket.time.finished, 0);
  EXPECT_EQ(ticket.batch_rows, 0);
  EXPECT_EQ(ticket.state, TicketState::kNew);
  EXPECT_EQ(ticket.lane, 0U);
  EXPECT_EQ(ticket.model, nullptr);
  EXPECT_EQ(ticket.delay_place, kNotInHeap);
  EXPECT_EQ(ticket.order_when, kNever);
  EXPECT_EQ(ticket.order_level, 0U);
  EXPECT_EQ(ticket.target, kNever);
  EXPECT_EQ(ticket.queue_next, nullptr);
  EXPECT_EQ(ticket.group, nullptr);
  EXPECT_EQ(ticket.sequence, 0U);
  EXPECT_EQ(ticket.queued_bytes, 0U);
  EXPECT_EQ(ticket.heap_index, kNotInHeap);
  EXPECT_EQ(ticket.references.load(), 1U);
  EXPECT_EQ(ticket.inputs.capacity(), inputs_capacity);
  EXPECT_EQ(ticket.id.capacity(), id_capacity);
  EXPECT_EQ(pool.stats().bytes_in_use, 0U);
  EXPECT_EQ(pool.stats().blocks_in_use, 0U);
}

TEST(Ticket, ItsDeadlineIsTheEarlierOfTheCallsAndItsOwn) {
  Ticket ticket;
  ticket.start(100, kNever);
  EXPECT_EQ(ticket.time.received, 100);
  EXPECT_EQ(ticket.deadline, kNever);
  ticket.start(100, 500);
  EXPECT_EQ(ticket.deadline, 500);
  ticket.timeout = 50;
  ticket.start(100, 500);
  EXPECT_EQ(ticket.deadline, 150);
  ticket.timeout = 1000;
  ticket.start(100, 500);
  EXPECT_EQ(ticket.deadline, 500);
  ticket.timeout = kNever - 10;
  ticket.start(100, kNever);
  EXPECT_EQ(ticket.deadline, kNever) << "not past the end of time";
}

}  // namespace
}  // namespace headrace
