#include "base/data_type.h"

#include <cassert>

namespace atlas {

const DataTypeInfo& data_type_info(DataType type) {
    static constexpr DataTypeInfo kInfos[] = {
        {"f32", 1, 4},    {"f16", 1, 2},    {"bf16", 1, 2},   {"q8_0", 32, 34},   {"q4_0", 32, 18},
        {"q4_1", 32, 20}, {"q5_0", 32, 22}, {"q5_1", 32, 24}, {"iq4_nl", 32, 18},
    };
    assert(type != DataType::kOther);
    return kInfos[static_cast<int>(type)];
}

}  // namespace atlas
