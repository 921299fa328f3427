#include "kernels/cpu/attention/row_ops.h"

namespace atlas::kernels::cpu {

RowOps row_ops(DataType type) {
    switch (type) {
        case DataType::kF16:
            return row_ops_f16();
        case DataType::kBF16:
            return row_ops_bf16();
        case DataType::kQ8_0:
            return row_ops_q8_0();
        case DataType::kQ4_0:
            return row_ops_q4_0();
        case DataType::kQ4_1:
            return row_ops_q4_1();
        case DataType::kQ5_0:
            return row_ops_q5_0();
        case DataType::kQ5_1:
            return row_ops_q5_1();
        case DataType::kIQ4_NL:
            return row_ops_iq4_nl();
        case DataType::kF32:
        case DataType::kOther:
            break;
    }
    return row_ops_f32();
}

}  // namespace atlas::kernels::cpu
