#include "front/response_outputs.h"

#include <gtest/gtest.h>

#include <vector>

#include "shared_object.h"

namespace headrace {
namespace {

TEST(ResponseOutputs, ListsWhatWasAskedForAndWhereItIs) {
  Model model;
  for (const char* name : {"y", "z", "w"}) {
    TensorSpec spec;
    spec.name = name;
    model.signature.outputs.push_back(spec);
  }
  const testing::SharedObject object(100);
  Ticket ticket;
  ticket.outputs.resize(3);
  ticket.outputs[0].dtype = ticket.outputs[2].dtype = DType::kInt32;
  ticket.output_requests.resize(2);
  ticket.asks_more = true;
  ticket.output_requests[0].output = 0;
  ticket.output_requests[0].classes = 3;
  ticket.output_requests[1].output = 2;
  ticket.output_requests[1].region = *SharedRegion::open("r", object.key(), 0, 100);
  ticket.output_requests[1].offset = 8;
  ticket.output_requests[1].bytes = 50;
  ticket.output_requests[1].written = 40;
  std::vector<wire::ResponseOutput> outputs(7);
  list_outputs(ticket, model, outputs);
  ASSERT_EQ(outputs.size(), 2U);
  EXPECT_EQ(outputs[0].name, "y");
  EXPECT_EQ(outputs[0].tensor, &ticket.outputs[0]);
  EXPECT_TRUE(outputs[0].shared.region.empty());
  EXPECT_EQ(outputs[1].name, "w");
  EXPECT_EQ(outputs[1].shared.region, "r");
  EXPECT_EQ(outputs[1].shared.offset, 8U);
  EXPECT_EQ(outputs[1].shared.bytes, 40U);
}

}  // namespace
}  // namespace headrace
