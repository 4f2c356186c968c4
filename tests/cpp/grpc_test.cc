#include "wire/grpc.h"

#include <gtest/gtest.h>

#include "grpc_wire.h"

namespace headrace::testing {
namespace {

using wire::Call;
using wire::GrpcLimits;
using wire::Message;
using wire::OutMessage;

TEST(Grpc, AnswersAUnaryCall) {
  GrpcWire wire;
  const std::int32_t id = wire.client.call("/a.B/C", "hello");
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].path, "/a.B/C");
  EXPECT_EQ(wire.answer(id).header(":status"), "200");
  EXPECT_EQ(wire.answer(id).header("content-type"), "application/grpc");
  EXPECT_EQ(wire.answer(id).messages(), std::vector<std::string>{"hello"});
  EXPECT_EQ(wire.status(id), "0");
  EXPECT_TRUE(wire.answer(id).closed);
  EXPECT_EQ(wire.answer(id).reset, 0u);
  EXPECT_EQ(wire.connection->open_calls(), 0u);
  EXPECT_EQ(wire.connection->output_waiting(), 0u);
}

}  // namespace
}  // namespace headrace::testing
