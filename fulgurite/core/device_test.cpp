#include "fulgurite/core/device.h"

#include <gtest/gtest.h>

#include "test/op_test.h"

namespace fulgurite {
namespace {

TEST(device, a_target_has_one_name) {
  for (const char* const known : {"cpu", "sm80", "sm90", "sm100", "sm120"})
    EXPECT_EQ(name(target_named(known)), known);
  EXPECT_EQ(target_named("sm100").sm, 100);
  EXPECT_EQ(target_named("sm100").kind, DeviceKind::kCuda);
  EXPECT_EQ(target_named("cpu").kind, DeviceKind::kCpu);
  EXPECT_EQ(target_named("sm90").cuda.cublaslt, 0) << "known where there is a device";
}

TEST(device, an_unknown_target_is_refused_with_those_that_there_are) {
  for (const std::string unknown : {"sm70", "sm90a", "SM90", "sm", "", "gpu"})
    EXPECT_EQ(test::message_of([&] { target_named(unknown); }),
              "no target \"" + unknown + "\"; there are cpu, sm80, sm90, sm100, sm120");
}

}  // namespace
}  // namespace fulgurite
