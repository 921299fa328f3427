#pragma once

#include <gtest/gtest.h>

#include "plugin.h"

namespace atlas::host::test {

/** A test of the device that owns the KV cache. */
class AtlasDevice : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_NE(load_plugin(), nullptr);
        device_ = ggml_backend_dev_by_name("ATLAS0");
        ASSERT_NE(device_, nullptr);
    }

    ggml_backend_dev_t device_ = nullptr;
};

}  // namespace atlas::host::test
